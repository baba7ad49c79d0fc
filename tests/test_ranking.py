"""Ranks by counting are those of sorting, whatever the form, the precision and the ties; nDCG is scikit-learn's; all
pairs at once through a head are what the head makes of each."""

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from sklearn.metrics import ndcg_score

from frames_matter.base.errors import UserError
from frames_matter.metrics import ranking
from frames_matter.metrics.retrieval import (
    ndcg_each,
    ranks,
    ranks_of_best,
    retrieval_metrics,
    retrieval_metrics_of_features,
)
from frames_matter.model.heads import FusionTransformer
from frames_matter.model.training import pairwise_similarity


def sorted_ranks(scores, true):
    return rankdata(-np.asarray(scores, np.float64), axis=1)[np.arange(len(scores)), true]


def drawn(kind, n, m, seed=0):
    "Scores without ties, with many, of one value alone, and of both zeros."
    rng = np.random.default_rng(seed)
    plain = rng.standard_normal((n, m))
    return {
        "plain": plain,
        "ties": plain.round(),
        "constant": np.ones((n, m)),
        "zeros": np.where(plain > 0, 0.0, -0.0),
    }[kind]


@pytest.mark.parametrize("kind", ["plain", "ties", "constant", "zeros"])
@pytest.mark.parametrize("n, m", [(1, 1), (1, 7), (300, 9), (257, 513)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_counting_is_sorting(kind, n, m, dtype):
    scores, true = drawn(kind, n, m).astype(dtype), np.random.default_rng(1).integers(0, m, n)
    assert np.array_equal(ranks(scores, true), sorted_ranks(scores, true))
    t2v, v2t = ranking.matrix_ranks(scores, true)
    clips = np.unique(true)
    assert np.array_equal(t2v, sorted_ranks(scores, true))
    assert np.array_equal(v2t, ranks_of_best(scores[:, clips].T, clips, true))


@pytest.mark.parametrize("as_given", ["not contiguous", "transposed", "a tensor", "half", "whole numbers", "a list"])
def test_in_whatever_form_scores_come(as_given):
    scores = drawn("ties", 40, 40)
    given = {
        "not contiguous": np.repeat(scores, 2, axis=1)[:, ::2],
        "transposed": np.ascontiguousarray(scores.T).T,
        "a tensor": torch.tensor(scores, requires_grad=True),
        "half": torch.tensor(scores, dtype=torch.bfloat16),
        "whole numbers": scores.astype(np.int64),
        "a list": scores.tolist(),
    }[as_given]
    assert np.array_equal(ranks(given, range(40)), sorted_ranks(scores, range(40)))
    assert retrieval_metrics(given) == retrieval_metrics(scores)


def test_scores_that_differ_in_the_last_bit_of_their_precision():
    ones = np.ones((2, 2))
    ones[0, 1], ones[1, 0] = np.nextafter(1, 2), np.nextafter(1, 0)
    assert ranks(ones, [0, 1]).tolist() == [2, 1]
    assert ranks(ones.astype(np.float32), [0, 1]).tolist() == [1.5, 1.5]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_and_counted(value):
    scores = np.eye(5, dtype=np.float32)
    scores[3, 1] = scores[0, 0] = value
    with pytest.raises(UserError, match="holds 2 values"):
        ranks(scores, range(5))
    with pytest.raises(UserError, match="not finite"):
        retrieval_metrics_of_features(scores, np.eye(5))


@pytest.mark.parametrize("captions, clips", [(90, 90), (200, 50), (33, 70)])
def test_from_features_it_is_what_the_matrix_gives(captions, clips, monkeypatch):
    "In tiles too, and where clips are equal: those have one score, to the bit, in whichever tile they fall."
    rng = np.random.default_rng(0)
    video, text = rng.standard_normal((clips, 24), np.float32), rng.standard_normal((captions, 24), np.float32)
    video[clips // 2 :] = video[: clips - clips // 2]
    true = rng.integers(0, clips, captions)
    whole = ranking.feature_ranks(video, text, true)
    monkeypatch.setattr(ranking, "_TILE", 16)
    for tiled, at_once in zip(ranking.feature_ranks(video, text, true), whole, strict=True):
        assert np.array_equal(tiled, at_once)
    assert (whole[0] % 1 == 0.5).all()  # each clip is there twice, so every rank is a tie
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (video.astype(float), text.astype(float))]
    assert np.abs(whole[0] - sorted_ranks(unit[1] @ unit[0].T, true)).max() <= 0.5  # two roundings


def test_metrics_of_features_are_those_of_their_cosines():
    rng = np.random.default_rng(3)
    video = torch.from_numpy(rng.standard_normal((120, 32), np.float32))
    text = video + torch.from_numpy(rng.standard_normal((120, 32), np.float32))
    cosines = torch.nn.functional.normalize(text, dim=1) @ torch.nn.functional.normalize(video, dim=1).T
    assert retrieval_metrics_of_features(video, text) == retrieval_metrics(cosines)
    with pytest.raises(UserError, match="of one D"):
        retrieval_metrics_of_features(video, text[:, 1:])


@pytest.mark.parametrize("kind", ["plain", "ties", "constant"])
@pytest.mark.parametrize("k", [1, 3, 10, 500])
def test_ndcg_is_scikit_learn_s(kind, k):
    rng = np.random.default_rng(2)
    scores, relevance = drawn(kind, 30, 40), rng.integers(0, 4, (30, 40)).astype(float)
    relevance[0] = 0  # of which nothing is true
    theirs = [100 * ndcg_score(r[None], s[None], k=k) for r, s in zip(relevance, scores, strict=True)]
    np.testing.assert_allclose(ndcg_each(scores, relevance, k), theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dim, layers, heads", [(32, 1, 8), (64, 4, 8), (48, 2, 3)])
@pytest.mark.parametrize("clips, captions", [(1, 1), (5, 3), (3, 70)])
def test_every_pair_is_what_the_encoder_makes_of_each(dim, layers, heads, clips, captions):
    "Of a fusion transformer whose parameters are not those of its start."
    torch.manual_seed(0)
    fusion = FusionTransformer(dim, layers, heads)
    for parameter in fusion.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    video, text = torch.randn(clips, dim), torch.randn(captions, dim)
    shape = captions, clips, dim
    with torch.no_grad():
        slow = fusion.eval()(video.expand(shape), text[:, None].expand(shape))
        for fast, of in zip(fusion.every_pair(video, text), slow, strict=True):
            torch.testing.assert_close(fast, of, atol=2e-5, rtol=0)
        expected = torch.nn.functional.cosine_similarity(*slow, dim=-1)
        torch.testing.assert_close(pairwise_similarity(fusion, video, text, chunk=7), expected, atol=2e-5, rtol=0)


def test_dropout_and_gradients_go_the_long_way():
    fusion = FusionTransformer(32)
    video, text = torch.randn(4, 32), torch.randn(3, 32)
    assert pairwise_similarity(fusion, video, text).requires_grad
    with torch.no_grad():
        drawn = [pairwise_similarity(fusion.train(), video, text) for _ in range(2)]
    assert not drawn[0].equal(drawn[1])
