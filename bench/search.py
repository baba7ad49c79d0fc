"""A search: every clip scored, up to a million of them, and LanceDB's index; seconds, and what the index misses.

frames-matter bench search
"""

import tempfile
import time
from pathlib import Path

import torch
from _measure import OURS, load, stage, write_record
from _script import run_script
from torch.nn.functional import normalize

from frames_matter.clips.nearest import build_index, cosines_of_normal, rank_by_index, rank_exactly

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


def timed(ask) -> tuple[list, list[float]]:
    "What every query gets, and the seconds of each, asked one by one."
    found, taken = [], []
    for query in drawn(QUERIES, 1).split(1):
        start = time.perf_counter()
        found += ask(query)
        taken.append(time.perf_counter() - start)
    return found, taken


def main() -> None:
    before, million = load(), normalize(drawn(1_000_000, 2), dim=-1)
    _, small = timed(lambda query: rank_exactly(cosines_of_normal, million[:100_000], query, TOP))
    exact, whole = timed(lambda query: rank_exactly(cosines_of_normal, million, query, TOP))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        index = build_index(million, Path(folder) / "features.safetensors")
        built = time.perf_counter() - start
        found, taken = timed(lambda query: rank_by_index(index, query, TOP))
        disk = sum(path.stat().st_size for path in index.rglob("*") if path.is_file())
    shared = sum(len({*ours} & {*truth}) for (_, ours), (_, truth) in zip(found, exact, strict=True))
    _, product = timed(lambda query: [query @ million.T])
    stages = [
        stage("a query of 100,000 clips", {OURS: small}),
        stage("a query of a million clips", {OURS: whole, "LanceDB's index": taken}, {"the product alone": product}),
    ]
    of_index = {"recall_at_10": shared / TOP / QUERIES, "build_seconds": round(built, 1), "gb": round(disk / 2**30, 2)}
    what = f"{QUERIES} queries one by one, vectors of {WIDTH} in {KINDS:,} heaps, without the model's own time"
    write_record("search", what, stages, ("torch", "lancedb"), before, index=of_index)


if __name__ == "__main__":
    run_script(main)
