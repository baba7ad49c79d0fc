"""Choosing 1000 candidates of InternVid's 17.6 million rows: `frames-matter dataset select` in a process of its own, beside the least that any such program must do, in one run.

    frames-matter bench rows
    python bench/rows.py --rows 1000000      a smaller table

The table is made here, in pieces of a million rows, from a seed: InternVid's columns, clips of one video together, the dirt of the real one. It is kept in data/bench and used again.
The limit: one process that reads the same columns with polars and counts their values.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import polars as pl

from frames_matter.base.errors import UserError
from frames_matter.base.files import atomic_path, atomic_write, project_root

ROWS, PIECE, MAX_SECONDS, MAX_GB = 17_573_429, 1_000_000, 10, 1.5
ALPHABET = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", np.uint8)
WORDS = np.array(
    [
        "a",
        "man",
        "woman",
        "dog",
        "cat",
        "is",
        "playing",
        "walking",
        "cooking",
        "standing",
        "guitar",
        "ball",
        "in",
        "on",
        "near",
        "the",
        "park",
        "street",
        "kitchen",
        "while",
        "people",
        "watch",
        "and",
        "music",
        "plays",
        "under",
        "bright",
        "red",
        "green",
        "lights",
    ]
)


def piece(number, n):
    "One piece of the table: ids in runs, times in whole milliseconds, a few rows of each kind of dirt."
    rng = np.random.default_rng((2026, number))
    ids = ALPHABET[rng.integers(0, 64, (n // 6 + 1, 11))].view("S11").ravel().astype(str)
    start = rng.integers(0, 7_200_000, n)
    sentences = pl.Series([" ".join(rng.choice(WORDS, 12)) for _ in range(1000)])
    clock = lambda c: pl.format(
        "{}:{}:{}.{}",
        *(
            pl.col(c).floordiv(unit).mod(base).cast(pl.String).str.zfill(width)
            for unit, base, width in ((3_600_000, 100, 2), (60_000, 60, 2), (1000, 60, 2), (1, 1000, 3))
        ),
    )
    table = pl.DataFrame(
        dict(
            YoutubeID=ids[np.sort(rng.integers(0, len(ids), n))],
            start=start,
            end=start + rng.gamma(2, 3500, n).astype(int) + 500,
            Aesthetic_Score=rng.normal(4.8, 0.6, n),
            CLIP_Score=rng.uniform(0, 0.4, n),
        )
    )
    dirt = pl.Series(rng.integers(0, 10_000, n))
    return table.select(
        pl.when(dirt == 0).then(pl.lit("#NAME?")).otherwise("YoutubeID").alias("YoutubeID"),
        Start_timestamp=clock("start"),
        End_timestamp=pl.when(dirt == 1).then(pl.lit("00:03:60.000")).otherwise(clock("end")),
        Caption=pl.when(dirt == 2)
        .then(None)
        .otherwise(pl.format("{} {}", sentences.gather(pl.Series(rng.integers(0, 1000, n))), pl.int_range(n))),
        Aesthetic_Score=pl.when(dirt == 3).then(None).otherwise("Aesthetic_Score"),
        CLIP_Score=pl.when(dirt < 100).then(None).otherwise("CLIP_Score"),
    )


def make_table(rows):
    "The pieces of a table of so many rows, made once."
    folder = project_root() / "data" / "bench" / f"rows-{rows}"
    for number, at in enumerate(range(0, rows, PIECE)):
        path = folder / f"{number:04}.parquet"
        if path.is_file():
            continue
        with atomic_path(path) as tmp:
            piece(number, min(PIECE, rows - at)).write_parquet(tmp)
        print(f"\rmaking the table: {min(rows, at + PIECE):,} of {rows:,} rows", end="", flush=True)
    print()
    return folder


def measured(command, **environment):
    "Run a command; seconds, CPU seconds, peak resident memory in GB, and what it printed."
    start = time.perf_counter()
    process = subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise UserError(f"{' '.join(map(str, command))} failed: {said.strip()}")
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return dict(
        seconds=round(time.perf_counter() - start, 2),
        cpu_seconds=round(usage.ru_utime + usage.ru_stime, 2),
        peak_gb=round(peak / 1e9, 2),
    ), said


COUNT = "import sys, polars as pl; print(pl.scan_parquet(sys.argv[1] + '/*.parquet').select(pl.col('YoutubeID', 'Start_timestamp', 'End_timestamp', 'Caption', 'Aesthetic_Score').count()).collect(engine='streaming').row(0))"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    folder, threads, found = (
        make_table(args.rows),
        dict(POLARS_MAX_THREADS=str(args.threads), OMP_NUM_THREADS=str(args.threads)),
        {},
    )
    for rule in ("hash", "first"):
        with tempfile.TemporaryDirectory() as home:
            words = [
                "dataset",
                "select",
                "-p",
                "internvid",
                "--rows",
                str(folder),
                "--rule",
                rule,
                "--candidates",
                str(args.candidates),
                "-o",
                "min_score=4.0",
            ]
            found[rule], said = measured(
                [sys.executable, "-c", "from frames_matter.cli import main; main()", *words],
                FRAMES_MATTER_HOME=home,
                **threads,
            )
            record = json.loads((Path(home) / "data_manifest" / "internvid" / "selection.json").read_text())
            if record["candidates"] != args.candidates or rule == "hash" and record["rows_seen"] != args.rows:
                raise UserError(f"The selection is not what was asked for: {said}")
            if rule == "hash":
                print(said.split("Written")[0])
    found["count only"], _ = measured([sys.executable, "-c", COUNT, str(folder)], **threads)
    size = sum(p.stat().st_size for p in folder.iterdir())
    print(f"{args.rows:,} rows, {size / 1e9:.2f} GB of parquet, {args.candidates} candidates, {args.threads} threads")
    for name, row in found.items():
        print(f"{name:12}{row['seconds']:7.1f} s {row['cpu_seconds']:7.1f} CPU s {row['peak_gb']:6.2f} GB peak")
    met = found["hash"]["seconds"] <= MAX_SECONDS and found["hash"]["peak_gb"] <= MAX_GB
    print(f"limit for {ROWS:,} rows on 2 cores: {MAX_SECONDS} s, {MAX_GB} GB: {'met' if met else 'MISSED'}")
    record = dict(
        command="frames-matter bench rows",
        what=f"{args.candidates} candidates of {args.rows} rows, {size} bytes of parquet, {args.threads} threads, whole process with start and checksums",
        runs=found,
        limit=dict(seconds=MAX_SECONDS, peak_gb=MAX_GB),
        versions=dict(python=platform.python_version(), polars=metadata.version("polars")),
        machine=f"{platform.machine()}, {os.cpu_count()} cores",
    )
    if args.rows == ROWS:
        atomic_write(project_root() / "results" / "bench" / "rows.json", json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except UserError as e:
        sys.exit(print(e, file=sys.stderr) or 2)
