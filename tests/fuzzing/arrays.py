"Captions into the tokenizer, arrays into metrics, losses and preprocessing, numbers into the choice of frames."

import math

import numpy as np
import torch

from frames_matter.metrics.gap import clip_gaps, cosine_gap
from frames_matter.metrics.retrieval import as_array, cosine_similarity, dual_softmax, ndcg, ranks, retrieval_metrics
from frames_matter.metrics.stats import compare
from frames_matter.model.losses import hnac, infonce
from frames_matter.model.preprocessing import preprocess
from frames_matter.model.tokenizer import cut_captions, tokenizer_for
from frames_matter.video.sampling import SAMPLERS, clip_indices, sample_indices

from . import odd


def captions(rng, cell):
    "Texts, and what is none, into the tokenizer."
    texts = [
        odd.value(rng) if rng.random() < 0.1 else odd.text(rng, half=True) for _ in range(rng.choice([0, 1, 3, 20]))
    ]
    texts = rng.choice([texts] * 6 + [tuple(texts), np.array([str(t) for t in texts]), "a dog", None])
    length = rng.choice([32, 77, 2, 3, 1, 0, -1, 10**4, 2.0, "32", None, True])

    def call():
        tokenize = tokenizer_for("mini")
        ids = tokenize(texts, context_length=length)
        n = 1 if isinstance(texts, str) else len(texts)
        assert ids.shape == (n, length) and ids.dtype == torch.int64, (ids.shape, ids.dtype)
        assert not n or (ids.min() >= 0 and ids.max() < tokenize.vocab_size)
        cut = cut_captions(tokenize, texts, length)
        assert set(cut.cut) <= set(range(n)) and all(i < j < n for i, j in cut.alike)

    return call


def _array(rng, *shape):
    "Numbers of some shape, precision and kind, some of which may be none."
    shape = list(shape)
    if rng.random() < 0.25:
        shape = rng.choice([[], [0], [0, 0], [0, 3], [3, 0], [1, 1], shape[:1], [*shape, 1], [2, *shape], shape[::-1]])
    values = np.array([rng.uniform(-1, 1) for _ in range(math.prod(shape))]).reshape(shape)
    if values.size and rng.random() < 0.25:
        values.flat[rng.randrange(values.size)] = rng.choice([np.nan, np.inf, -np.inf, 1e308, 1e-320])
    if rng.random() < 0.1:
        values = np.full(shape, rng.choice([0.0, 1.0, -1.0]))
    kinds = [np.float64] * 3 + [np.float32, np.float16, np.int64, np.uint8, np.bool_, np.complex128, object, str]
    with np.errstate(all="ignore"):
        values = values.astype(rng.choice(kinds))
    as_other = [lambda v: v] * 4 + [lambda v: v.tolist(), np.asfortranarray, np.ma.masked_array, np.flip]
    if values.dtype.kind not in "OUSc":
        as_other += [_tensor, _tensor, lambda v: _tensor(v).bfloat16(), lambda v: _tensor(v).double().requires_grad_()]
        as_other += [lambda v: _tensor(v).to_sparse(), lambda v: torch.empty(v.shape, device="meta")]
    return rng.choice(as_other)(values)


def _tensor(values):
    return torch.from_numpy(values.copy())


def _positives(rng, n, clips):
    "Which clip is each caption's, or what is none."
    good = [rng.randrange(clips) for _ in range(n)]
    return rng.choice(
        [
            None,
            None,
            good,
            good,
            np.array(good),
            torch.tensor(good),
            [-1] * n,
            [clips] * n,
            good[:-1],
            [0.5] * n,
            [],
            "a",
        ]
        + [np.array(good, np.uint8), [np.nan] * n, [[0]] * n, np.array(good, object), [True] * n]
    )


def metrics(rng, cell):
    "Similarities and features into the metrics: recalls within 0 and 100, ranks within the candidates."
    n, clips = rng.choice([1, 2, 3, 12]), rng.choice([1, 2, 3, 12])
    clips = n if rng.random() < 0.6 else clips
    scores, positives = _array(rng, n, clips), _positives(rng, n, clips)
    other, k = _array(rng, n, clips), rng.choice([10, 10, 1, 0, -1, 10**9])
    temperature = rng.choice([0.01, 1, 0, -1, np.nan, np.inf, 1e-300, 0.07])
    kind = rng.choice(["hardest", "mean", "x", None, 7])
    uses = (
        lambda: _recalls(scores, positives),
        lambda: _recalls(scores, positives),
        lambda: _between(ranks(scores, _or_diagonal(positives, scores)), 1, np.shape(scores)[1]),
        lambda: _between(ndcg(scores, other, k), 0, 100 + 1e-9),
        lambda: _between(dual_softmax(scores, temperature), 0, np.inf),
        lambda: _cosines(scores, other),
        lambda: _between(clip_gaps(scores, kind), -np.inf, np.inf),
        lambda: _between(cosine_gap(scores, kind), -np.inf, np.inf),
    )
    return rng.choice(uses)


def _or_diagonal(positives, scores):
    return range(len(scores)) if positives is None else positives


def _recalls(scores, positives):
    found = retrieval_metrics(scores, positives)
    n, clips = np.shape(scores.detach().float() if hasattr(scores, "detach") else scores)
    for name, value in found.items():
        most = 600 if name == "rsum" else 100 if "_r" in name else clips if name.startswith("t2v") else n
        _between(value, 0 if "_r" in name or name == "rsum" else 1, most + 1e-9)


def _cosines(video, text):
    found = cosine_similarity(video, text)
    if np.abs(np.r_[as_array(video).ravel(), as_array(text).ravel(), 0]).max() < 1e150:  # whose squares are numbers
        _between(found, -1 - 1e-9, 1 + 1e-9)


def _between(values, low, high):
    values = np.asarray(values, float)
    assert not np.isnan(values).any() and (values >= low).all() and (values <= high).all(), (values, low, high)


def losses(rng, cell):
    "Features into the losses: finite, not below 0."
    n, width = rng.choice([1, 2, 5]), rng.choice([1, 8])
    video, text = (torch.as_tensor(np.asarray(_finite(rng, n, width))) for _ in range(2))
    if rng.random() < 0.3:
        text = rng.choice([text[:-1], text[:, :0], text.T, text[None], text[0], text.bfloat16(), text.double()])
    temperature = rng.choice([0.07, 1, 0, -1, np.nan, np.inf, 1e-4, 100])
    weight = rng.choice([0.5, 0, 1, -1, 2, np.nan])

    def call():
        loss = rng.choice([lambda: infonce(video, text, temperature), lambda: hnac(video, text, temperature, weight)])()
        assert loss.ndim == 0 and loss.isfinite(), loss
        assert loss >= -1e-5, loss

    return call


def _finite(rng, *shape):
    values = np.array([rng.uniform(-1, 1) for _ in range(math.prod(shape))], np.float32).reshape(shape)
    return values * rng.choice([1, 1, 0, 1e-30, 1e15])


def frames(rng, cell):
    "Pictures into preprocessing, and numbers into the choice of frames."
    shape = rng.choice(
        [(8, 20, 30, 3), (3, 9, 9, 3), (1, 1, 1, 3), (0, 4, 4, 3), (4, 4, 3), (2, 4, 4, 1), (2, 3, 4, 4), (2, 0, 4, 3)]
    )
    values = np.array([rng.randrange(256) for _ in range(math.prod(shape))]).reshape(shape)
    kinds = [np.float32, np.float64, np.int64, np.float16, np.bool_, object, np.uint16]
    values = values.astype(odd.mostly(rng, np.uint8, kinds, 0.5))
    if values.dtype.kind == "f" and values.size:
        values = values / rng.choice([1, 1, 255])
        values.flat[0] = rng.choice([0, np.nan, np.inf, -1, 1e9])
    values = rng.choice([values, values, values[:, ::-1], values.tolist()])
    size = odd.mostly(rng, rng.choice([224, 64, 1]), [0, -1, 2.5, "64", None, True, np.int64(16), np.nan], 0.3)
    strategy = odd.mostly(rng, rng.choice([*SAMPLERS]), ["x", None, 7], 0.05)
    counts = [0, -1, 1.5, None, "8", np.int64(5), True, np.nan]
    n, k = (odd.mostly(rng, rng.choice([1, 2, 7, 100, 10**6]), counts) for _ in range(2))
    seed = odd.mostly(rng, 0, [1, 2**32 - 1, 2**32, -1, 2**70, 1.5, "a", None, np.int64(3)], 0.2)

    def pixels():
        out = preprocess(values, size)
        assert out.shape == (len(values), 3, size, size) and out.dtype == torch.float32 and out.isfinite().all(), (
            out.shape
        )

    def numbers():
        found = sample_indices(strategy, n, k, seed)
        assert found.shape == (k,) and found.dtype == np.int64 and (np.diff(found) >= 0).all(), found
        assert found.min() >= 0 and found.max() < n

    def of_a_clip():
        found = clip_indices(values, strategy, k, seed)
        assert found is None or (len(found) == k and min(found) >= 0 and max(found) < len(values)), found

    return rng.choice([pixels, pixels, numbers, numbers, of_a_clip])


def comparisons(rng, cell):
    "Scores of two ways, by source video, into the comparison: an interval about the difference."
    n = rng.choice([0, 1, 2, 10])
    a, b = _array(rng, n), _array(rng, n)
    groups = rng.choice([np.arange(n), np.arange(n), np.zeros(n, int), np.arange(n + 1), np.arange(n)[None], []])

    def call():
        difference, low, high = compare(a, b, groups)
        _between([difference], -np.inf, np.inf)
        assert np.isnan([low, high]).all() or low <= high, (low, high)

    return call
