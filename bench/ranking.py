"""Ranks of 10,000 captions and clips both ways: counted, as the package does it, beside sorting; and of 100,000, from
their features alone, beside the matrix product without any ranks.

    frames-matter bench ranking
"""

import json
import sys
import time

import numpy as np
from _measure import OURS, in_own_process, in_turns, load, peak_gb, stage, write_record
from _script import run_script
from scipy.stats import rankdata

from frames_matter.base.errors import UserError
from frames_matter.metrics.ranking import _TILE, feature_ranks, matrix_ranks

N, ROUNDS = 10_000, 3
MANY, WIDTH = 100_000, 256


def drawn(n: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    "Features of clips, and of captions that fit them more or less."
    rng = np.random.default_rng(0)
    video = rng.standard_normal((n, width), np.float32)
    return video, video + 2 * rng.standard_normal((n, width), np.float32)


def by_argsort(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    "The place of the true one in each row sorted, and in each column; ties fall as they fall."
    n = np.arange(len(scores))
    return tuple((np.argsort(-of, axis=1) == n[:, None]).argmax(1) + 1 for of in (scores, scores.T))


def by_rankdata(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    "SciPy's ranks, of which the diagonal is taken; ties as their mean."
    return tuple(rankdata(-of, axis=1).diagonal() for of in (scores, scores.T))


def both_ways() -> dict:
    "The matrix of 10,000, by every way."
    video, text = drawn(N, WIDTH)
    scores, true = text @ video.T, np.arange(N)
    ways = {
        OURS: lambda: matrix_ranks(scores, true),
        "full argsort": lambda: by_argsort(scores),
        "SciPy's rankdata": lambda: by_rankdata(scores),
    }
    found = {name: way() for name, way in ways.items()}
    for name, ranks in found.items():
        if not all(np.array_equal(ours, theirs) for ours, theirs in zip(found[OURS], ranks, strict=True)):
            raise UserError(f"Counting and {name} give other ranks: nothing to compare.")
    return stage(f"ranks both ways, {N:,} x {N:,}", in_turns(ways, ROUNDS))


def product_alone(video: np.ndarray, text: np.ndarray) -> None:
    "The same tiles, multiplied and thrown away."
    for row in range(0, len(text), _TILE):
        for column in range(0, len(video), _TILE):
            text[row : row + _TILE] @ video[column : column + _TILE].T


def at_scale() -> None:
    "Print seconds of 100,000 from features and of their product alone, and the peak memory of the former in GB."
    video, text = drawn(MANY, WIDTH)
    start = time.perf_counter()
    feature_ranks(video, text, np.arange(MANY))
    ours = time.perf_counter() - start
    peak = peak_gb()
    start = time.perf_counter()
    product_alone(video, text)
    print(json.dumps([ours, time.perf_counter() - start, peak]))


def main() -> None:
    before = load()
    ours, product, peak = in_own_process(__file__, "at scale")
    many = stage(
        f"the same from features, {MANY:,} x {MANY:,}", {OURS: [ours]}, {"the matrix product alone": [product]}
    )
    what = f"float32, {ROUNDS} rounds in turns; the {MANY:,} of width {WIDTH} once, in a process of its own"
    write_record("ranking", what, [both_ways(), many], ("numpy", "scipy"), before, peak_gb_from_features=round(peak, 2))


if __name__ == "__main__":
    at_scale() if sys.argv[1:] == ["at scale"] else run_script(main)
