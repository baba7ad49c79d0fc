"""A search: every clip scored, up to a million of them, and LanceDB's index; seconds, and what the index misses.

frames-matter bench search
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch
from _measure import load, write_record
from _script import run_script
from torch.nn.functional import normalize

from frames_matter.clips.nearest import build_index, rank_by_index, rank_exactly

WIDTH, QUERIES, TOP, SEED = 256, 100, 10, 0
KINDS = 5_000  # of clips, each many times, a little different: what models give is in heaps, too
SPREAD = 0.7  # of clips of one kind, against that of kinds


def drawn(n: int, seed: int) -> torch.Tensor:
    "Vectors in heaps."
    generator = torch.Generator().manual_seed(SEED)
    kinds = torch.randn(KINDS, WIDTH, generator=generator)
    generator.manual_seed(seed)
    of = torch.randint(KINDS, (n,), generator=generator)
    return kinds[of] + SPREAD * torch.randn(n, WIDTH, generator=generator)


def cosine(video: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    return normalize(text, dim=-1) @ normalize(video, dim=-1).T


def timed(ask) -> tuple[list, list[float]]:
    "What every query gets, and the milliseconds of each, asked one by one."
    found, taken = [], []
    for query in drawn(QUERIES, 1).split(1):
        start = time.perf_counter()
        found += ask(query)
        taken.append(1000 * (time.perf_counter() - start))
    return found, taken


def exactly(n: int) -> tuple[list, dict[str, float]]:
    video = drawn(n, 2)
    found, taken = timed(lambda query: rank_exactly(cosine, video, query, TOP))
    return found, {"clips": n, "median_ms": round(statistics.median(taken), 2), "slowest_ms": round(max(taken), 2)}


def by_index(n: int, exact: list) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        index = build_index(drawn(n, 2), Path(folder) / "features.safetensors")
        built = time.perf_counter() - start
        found, taken = timed(lambda query: rank_by_index(index, query, TOP))
        disk = sum(path.stat().st_size for path in index.rglob("*") if path.is_file())
    shared = sum(len({*ours} & {*truth}) for (_, ours), (_, truth) in zip(found, exact, strict=True))
    return {
        "clips": n,
        "median_ms": round(statistics.median(taken), 2),
        "slowest_ms": round(max(taken), 2),
        f"recall_at_{TOP}": round(shared / TOP / QUERIES, 4),
        "build_seconds": round(built, 1),
        "disk_gb": round(disk / 2**30, 2),
    }


def main() -> None:
    before = load()
    _, small = exactly(100_000)
    exact, million = exactly(1_000_000)
    parts = {
        "what": f"{QUERIES} queries one by one, vectors of {WIDTH} in {KINDS:,} heaps, without the model's own time",
        "exact": [small, million],
        "index": by_index(1_000_000, exact),
    }
    write_record("search", parts, ("torch", "lancedb"), before)


if __name__ == "__main__":
    run_script(main)
