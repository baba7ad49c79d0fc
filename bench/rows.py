"""Choosing 1000 candidates of InternVid's 17.6 million rows, against the least that any such program must do.

    frames-matter bench rows
    python bench/rows.py --rows 1000000      a smaller table

`frames-matter dataset select` runs in a process of its own, by either rule. Set beside it, in the same run: one process
that reads the same columns with polars and counts their values.

The table is made here, in pieces of a million rows, from a seed: InternVid's columns, clips of one video together, the
dirt of the real one. It is kept in data/bench and used again.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from _measure import OURS, load, stage, watched, write_record
from _script import run_script

from frames_matter.base.errors import UserError
from frames_matter.base.files import atomic_path, project_root

ROWS = 17_573_429  # of InternVid's AES table
ROWS_A_PIECE = 1_000_000
MAX_SECONDS, MAX_GB = 6, 1.0
ALPHABET = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", np.uint8)
VOCABULARY = """
a man woman dog cat is playing walking cooking standing guitar ball in on near the park street kitchen while people
watch and music plays under bright red green lights
"""
WORDS = np.array(VOCABULARY.split())
COUNT = """
import sys
import polars as pl

columns = pl.col("YoutubeID", "Start_timestamp", "End_timestamp", "Caption", "Aesthetic_Score")
print(pl.scan_parquet(sys.argv[1] + "/*.parquet").select(columns.count()).collect(engine="streaming").row(0))
"""


def clock_of(column: str) -> pl.Expr:
    "A column of milliseconds as HH:MM:SS.mmm."
    parts = ((3_600_000, 100, 2), (60_000, 60, 2), (1000, 60, 2), (1, 1000, 3))  # milliseconds, how many, digits
    digits = [pl.col(column).floordiv(unit).mod(base).cast(pl.String).str.zfill(width) for unit, base, width in parts]
    return pl.format("{}:{}:{}.{}", *digits)


def sound_rows(rng: np.random.Generator, n: int) -> pl.DataFrame:
    "Ids in runs, times in whole milliseconds, sentences by number, scores."
    ids = ALPHABET[rng.integers(0, 64, (n // 6 + 1, 11))].view("S11").ravel().astype(str)
    start = rng.integers(0, 7_200_000, n)
    sentences = pl.Series([" ".join(rng.choice(WORDS, 12)) for _ in range(1000)])
    table = pl.DataFrame(
        {
            "YoutubeID": ids[np.sort(rng.integers(0, len(ids), n))],
            "start": start,
            "end": start + rng.gamma(2, 3500, n).astype(int) + 500,
            "Aesthetic_Score": rng.normal(4.8, 0.6, n),
            "CLIP_Score": rng.uniform(0, 0.4, n),
            "dirt": rng.integers(0, 10_000, n),
        }
    )
    return table.with_columns(sentence=sentences.gather(pl.Series(rng.integers(0, 1000, n))))


def piece(number: int, n: int) -> pl.DataFrame:
    "One piece of the table: InternVid's columns, with a few rows of each kind of dirt."
    table = sound_rows(np.random.default_rng((2026, number)), n)
    dirt = pl.col("dirt")
    caption = pl.format("{} {}", "sentence", pl.int_range(n))
    return table.select(
        pl.when(dirt == 0).then(pl.lit("#NAME?")).otherwise("YoutubeID").alias("YoutubeID"),
        Start_timestamp=clock_of("start"),
        End_timestamp=pl.when(dirt == 1).then(pl.lit("00:03:60.000")).otherwise(clock_of("end")),
        Caption=pl.when(dirt == 2).then(None).otherwise(caption),
        Aesthetic_Score=pl.when(dirt == 3).then(None).otherwise("Aesthetic_Score"),
        CLIP_Score=pl.when(dirt < 100).then(None).otherwise("CLIP_Score"),
    )


def make_table(rows: int) -> Path:
    "The folder with the pieces of a table of so many rows, made once."
    folder = project_root() / "data" / "bench" / f"rows-{rows}"
    for number, at in enumerate(range(0, rows, ROWS_A_PIECE)):
        path = folder / f"{number:04}.parquet"
        if path.is_file():
            continue
        with atomic_path(path) as tmp:
            piece(number, min(ROWS_A_PIECE, rows - at)).write_parquet(tmp)
        print(f"\rmaking the table: {min(rows, at + ROWS_A_PIECE):,} of {rows:,} rows", end="", flush=True)
    print()
    return folder


def measure_select(rule: str, folder: Path, rows: int, candidates: int, **environment: str) -> dict:
    "What `dataset select` by this rule costs; an error if it chose otherwise than it was asked to."
    start = [sys.executable, "-c", "from frames_matter.cli import main; main()"]
    words = ["dataset", "select", "-p", "internvid", "--rows", str(folder), "--rule", rule]
    options = ["--candidates", str(candidates), "-o", "min_score=4.0"]
    with tempfile.TemporaryDirectory() as home:
        costs, printed = watched([*start, *words, *options], FRAMES_MATTER_HOME=home, **environment)
        record = json.loads((Path(home) / "data_manifest" / "internvid" / "selection.json").read_text())
    seen_too_few = rule == "hash" and record["rows_seen"] != rows
    if record["candidates"] != candidates or seen_too_few:
        raise UserError(f"The selection is not what was asked for: {printed}")
    if rule == "hash":
        print(printed.split("Written")[0])
    return costs


def stages_of(runs: dict[str, dict], rows: int, candidates: int) -> list[dict]:
    "Each rule, with the columns read and counted beside it as the least."
    counted = {"the columns read and counted": [runs["count only"]["seconds"]]}
    words = {"hash": "every row looked at", "first": "the first that do"}
    return [
        stage(f"{candidates:,} of {rows:,} rows, {how}", {OURS: [runs[rule]["seconds"]]}, counted)
        for rule, how in words.items()
    ]


def show(runs: dict[str, dict], rows: int, candidates: int, threads: int, size: int) -> None:
    "Print what each run cost, and whether the limit was met."
    print(f"{rows:,} rows, {size / 1e9:.2f} GB of parquet, {candidates} candidates, {threads} threads")
    for name, run in runs.items():
        print(f"{name:12}{run['seconds']:7.1f} s {run['cpu_seconds']:7.1f} CPU s {run['peak_gb']:6.2f} GB peak")
    met = runs["hash"]["seconds"] <= MAX_SECONDS and runs["hash"]["peak_gb"] <= MAX_GB
    print(f"limit for {ROWS:,} rows on 2 cores: {MAX_SECONDS} s, {MAX_GB} GB: {'met' if met else 'MISSED'}")


def main() -> None:
    "Measure both rules and the limit, print them, and write the record of the whole table."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    folder, before = make_table(args.rows), load()
    threads = {"POLARS_MAX_THREADS": str(args.threads), "OMP_NUM_THREADS": str(args.threads)}
    runs = {rule: measure_select(rule, folder, args.rows, args.candidates, **threads) for rule in ("hash", "first")}
    runs["count only"], _ = watched([sys.executable, "-c", COUNT, str(folder)], **threads)
    size = sum(path.stat().st_size for path in folder.iterdir())
    show(runs, args.rows, args.candidates, args.threads, size)
    limit = {"seconds": MAX_SECONDS, "peak_gb": MAX_GB}
    what = f"{size} bytes of parquet, {args.threads} threads, whole processes with start and checksums"
    stages, keep = stages_of(runs, args.rows, args.candidates), args.rows == ROWS
    write_record("rows", what, stages, ("polars",), before, keep=keep, runs=runs, limit=limit)


if __name__ == "__main__":
    run_script(main)
