"""Numbers at the edge: cosines below 0, half precision, floats for frames, seeds and counts that are none."""

import numpy as np
import pytest
import torch

import frames_matter as fm
from frames_matter.base.errors import UserError
from frames_matter.metrics.gap import clip_gaps
from frames_matter.metrics.retrieval import (
    as_array,
    cosine_similarity,
    dual_softmax,
    foil_outcomes,
    ndcg_each,
    ranks,
    retrieval_metrics,
    zero_shot_demo,
)
from frames_matter.metrics.stats import mean_with_interval
from frames_matter.model.losses import hnac_from_similarity, infonce, infonce_from_similarity
from frames_matter.model.training import pairwise_similarity
from frames_matter.study.runner import run_all


def r1(similarity):
    return retrieval_metrics(similarity)["t2v_r1"]


def test_dual_softmax_orders_cosines_below_zero_as_those_above():
    below = np.full((5, 5), -0.3)
    np.fill_diagonal(below, -0.1)
    assert r1(below) == r1(dual_softmax(below)) == 100
    rng = np.random.default_rng(0)
    for shift in (0, -0.2, -0.5, -1):  # a hub that suits everyone, among cosines of either sign
        s = np.clip(rng.normal(0.2, 0.05, (12, 12)) + 0.15 * np.eye(12), 0, 1)
        s[:, 3] += 0.2
        assert r1(dual_softmax(s + shift)) >= r1(s + shift)
    assert r1(s) < 50 and r1(dual_softmax(s - 0.3)) == r1(dual_softmax(s)) == 100


def test_dual_softmax_rises_with_the_score_and_with_what_the_clip_prefers():
    s = np.random.default_rng(1).uniform(-0.5, 0.5, (6, 6))
    before = dual_softmax(s, temperature=0.2)
    for i, j in np.ndindex(s.shape):
        more = s.copy()
        more[i, j] += 0.05
        after = dual_softmax(more, temperature=0.2)
        assert (
            after[i, j] > before[i, j] - 1e-12
            and (np.delete(after[:, j], i) <= np.delete(before[:, j], i) + 0.05).all()
        )


def test_dual_softmax_of_scores_that_are_not_negative_is_the_published_one():
    s = np.random.default_rng(2).uniform(0, 1, (4, 7))
    e = np.exp(s / 0.1)
    np.testing.assert_allclose(dual_softmax(s, temperature=0.1), s * e / e.sum(0), rtol=1e-12)
    for temperature in (0, -1, float("nan")):
        with pytest.raises(UserError, match="temperature"):
            dual_softmax(s, temperature)


HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_is_read_wherever_features_and_scores_are(dtype):
    torch.manual_seed(0)
    video, text = (torch.randn(6, 16).to(dtype) for _ in range(2))
    exact = [x.double() for x in (video, text)]
    s, relevance = cosine_similarity(video, text), torch.rand(6, 6).to(dtype)
    np.testing.assert_array_equal(s, cosine_similarity(*exact))
    np.testing.assert_array_equal(s, cosine_similarity(list(video), list(text)))
    half = torch.as_tensor(s).to(dtype)
    assert retrieval_metrics(half) == retrieval_metrics(half.double())
    np.testing.assert_array_equal(ranks(half, range(6)), ranks(half.double().numpy(), range(6)))
    np.testing.assert_array_equal(ndcg_each(half, relevance), ndcg_each(half.double(), relevance.double()))
    np.testing.assert_array_equal(clip_gaps(half), clip_gaps(half.double()))
    np.testing.assert_array_equal(dual_softmax(half), dual_softmax(half.double()))
    assert foil_outcomes(half[0], half[1]).tolist() == foil_outcomes(half[0].double(), half[1].double()).tolist()
    assert zero_shot_demo(video[0], text, "abcdef") == zero_shot_demo(exact[0][0], exact[1], "abcdef")
    groups = np.arange(6)
    hits = (half > 0).to(dtype).diagonal()
    assert mean_with_interval(hits, groups) == mean_with_interval(hits.double().numpy(), groups)


@pytest.mark.parametrize("dtype", HALVES)
def test_losses_of_half_precision_are_those_of_the_same_numbers_in_float32(dtype):
    torch.manual_seed(0)
    video, text = (torch.randn(6, 16).to(dtype) for _ in range(2))
    assert infonce(video, text).dtype == torch.float32
    torch.testing.assert_close(infonce(video, text), infonce(video.float(), text.float()))
    torch.testing.assert_close(fm.hnac(video, text), fm.hnac(video.float(), text.float()))
    torch.testing.assert_close(
        pairwise_similarity(None, video, text.float()), pairwise_similarity(None, video.float(), text.float())
    )
    s = pairwise_similarity(None, video, text).to(dtype)
    for loss in (infonce_from_similarity, hnac_from_similarity, *fm.LOSSES.values()):
        known = {"bias": -10.0, "captions": s, "relevant": torch.eye(6) > 0, "hard_negative_weight": 0.5}
        known = {k: v for k, v in known.items() if k in getattr(loss, "needs", ())}
        wide = {k: v.float() if k == "captions" else v for k, v in known.items()}
        half, exact = loss(s, temperature=0.07, **known), loss(s.float(), temperature=0.07, **wide)
        torch.testing.assert_close(half, exact)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_model_in_half_precision_compares(dtype):
    bundle = fm.load("nano")
    frames = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    exact = bundle.similarity([frames], ["a red star", "a blue ring"])
    bundle.model.to(dtype)
    half = bundle.similarity([frames], ["a red star", "a blue ring"])
    assert half.dtype == torch.float32 and torch.allclose(half, exact, atol=0.05)


@pytest.mark.parametrize("bad", ["text", [["a"]], [[1, 2], [3]], object(), None, torch.zeros(2, 2).to_sparse()])
def test_what_is_no_array_of_numbers_is_one_sentence(bad):
    with pytest.raises(UserError):
        retrieval_metrics(bad)
    with pytest.raises(UserError):
        as_array(bad) if bad is not None else retrieval_metrics(bad)


FRAMES = np.random.default_rng(3).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int16, np.uint16, np.int64, torch.bfloat16])
def test_frames_of_other_types_give_what_uint8_gives(dtype):
    other = torch.from_numpy(FRAMES).to(dtype) if isinstance(dtype, torch.dtype) else FRAMES.astype(dtype)
    torch.testing.assert_close(fm.preprocess(other, 32), fm.preprocess(FRAMES, 32))
    bundle = fm.load("nano")
    torch.testing.assert_close(bundle.preprocess(other), bundle.preprocess(FRAMES))


def test_frames_however_they_lie_in_memory():
    turned, locked = FRAMES[..., ::-1], FRAMES.copy()
    locked.flags.writeable = False
    torch.testing.assert_close(fm.preprocess(turned, 32), fm.preprocess(turned.copy(), 32))
    torch.testing.assert_close(fm.preprocess(locked, 32), fm.preprocess(FRAMES, 32))
    torch.testing.assert_close(fm.preprocess(list(FRAMES), 32), fm.preprocess(FRAMES, 32))
    assert fm.preprocess(np.zeros((1, 8, 8, 3)), 8).shape == (1, 3, 8, 8)  # black, whatever it is measured in


@pytest.mark.parametrize(
    "bad",
    [
        FRAMES / 255,
        (FRAMES / 255).astype(np.float16),
        FRAMES / 255 * 1.0001,
        FRAMES / 127.5 - 1,
        FRAMES.astype(np.int64) * 256,
        FRAMES.astype(float) * np.nan,
        FRAMES > 100,
        FRAMES.astype(complex),
        FRAMES.astype(str),
        FRAMES[:0],
        FRAMES[:, :0],
        FRAMES[0],
        [FRAMES[0], FRAMES[0, 1:]],
        None,
        "clip.mp4",
    ],
    ids=range(15),
)
def test_frames_that_are_none_are_one_sentence(bad):
    for prepare in (lambda: fm.preprocess(bad, 32), lambda: fm.load("nano").preprocess(bad)):
        with pytest.raises(UserError):
            prepare()


@pytest.mark.parametrize("size", [0, -1, 2.5, "64", None])
def test_a_size_that_is_none_is_one_sentence(size):
    with pytest.raises(UserError):
        fm.preprocess(FRAMES, size)


@pytest.mark.parametrize("seed", [-1, 2.5, "1", None, True, 2**70])
def test_a_seed_that_is_none_is_one_sentence(seed):
    with pytest.raises(UserError, match="A seed is a whole number"):
        fm.sample_indices("weighted", 20, 8, seed=seed)


def test_counts_that_are_none_are_one_sentence(tmp_path):
    for none in (
        lambda: fm.sample_indices("uniform", 20, k=0),
        lambda: ndcg_each(np.eye(3), np.eye(3), k=0),
        lambda: run_all([], workers=0),
        lambda: run_all([], workers=-1),
    ):
        with pytest.raises(UserError):
            none()
