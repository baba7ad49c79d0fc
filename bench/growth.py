"""How time and memory grow with clips and captions, beside what the mathematics of each step says.

    frames-matter bench growth                  about three minutes on two cores
    python bench/growth.py --clips 50,500,5000  more clips; a quarter of an hour
    python bench/growth.py --only "a hundred queries"

Each size of each step is done once in a process of its own. The exponent is the slope of its logarithms from the second
largest size to the largest; memory is what the step adds to the peak of its process. Clips are those of the mini world,
again and again by other names, each with a few bytes of its own at its end, which no reader shows; captions, and
features to score, are drawn.
"""

import argparse
import itertools
import json
import math
import os
import random
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
from _measure import draw_figure, exponent_shown, in_own_process, load, peak_gb, write_record
from _script import run_script
from matplotlib.figure import Figure

from frames_matter.base.errors import UserError, choose
from frames_matter.base.profiles import data_dir, get_profile
from frames_matter.clips.nearest import cosines_of_normal, rank_exactly
from frames_matter.data.build import build_dataset
from frames_matter.data.manifest import load_manifest
from frames_matter.data.own import register_own
from frames_matter.metrics.retrieval import retrieval_metrics_of_features
from frames_matter.model.compute import Clock
from frames_matter.model.protocols import PROTOCOLS
from frames_matter.model.tokenizer import tokenizer_for
from frames_matter.model.training import Pairs, Step, Training, train_epoch, trainable_parameters
from frames_matter.model.weights import load_viclip
from frames_matter.report.style import COLOURS, is_narrow, mark_of, subplots
from frames_matter.video.kept import FrameCache, read_kept
from frames_matter.video.sampling import SAMPLERS

CLIPS, PAIRS, CAPTIONS = (50, 200, 800), (1000, 4000, 16_000), (1000, 10_000, 100_000, 1_000_000)
WIDTH, GALLERY = 128, 1000  # of viclip-nano's features; clips that many captions are asked of

# --- what is done, a function of the number that gives the thing to time ---


def many_clips(n: int, folder: Path) -> list[Path]:
    "So many different files with a caption beside each: the mini world's clips, with a box behind that is skipped."
    rows = load_manifest(get_profile("mini"))
    for number, row in zip(range(n), itertools.cycle(rows.itertuples()), strict=False):
        box = struct.pack(">I4sQ", 16, b"free", number)
        path = folder / f"clip{number:05}.mp4"
        path.write_bytes(Path(row.path).read_bytes() + box)
        path.with_suffix(".txt").write_text(f"{row.caption} {number}", encoding="utf-8")
    return sorted(folder.glob("*.mp4"))


def ingest(n: int, folder: Path) -> Callable[[], object]:
    "A folder of clips becomes a data set."
    clips, home = folder / "clips", folder / "home"
    clips.mkdir()
    home.mkdir()
    many_clips(n, clips)
    mock.patch.dict(os.environ, FRAMES_MATTER_HOME=str(home)).start()
    return lambda: build_dataset(register_own(clips, "grown"), progress=False)


def keep_frames(n: int, folder: Path) -> Callable[[], object]:
    "Every clip decoded for the first time, and kept."
    paths, cache = many_clips(n, folder), FrameCache(folder / "frames", 2**34)
    return lambda: sum(read_kept(cache, path, "", SAMPLERS["uniform"], 8, 64).nbytes for path in paths)


def epoch(n: int, folder: Path) -> Callable[[], object]:
    "A training epoch of viclip-nano with a tenth of the tokens, on noise."
    model, how, protocol = load_viclip("nano"), Training(), PROTOCOLS["published"]
    size = model.config.image_size
    pairs = Pairs(torch.randn(n, model.config.num_frames, 3, size, size), torch.randn(n, model.config.embed_dim))
    optimizer = torch.optim.AdamW(trainable_parameters(model, None, protocol).values(), lr=how.learning_rate)
    return lambda: train_epoch(Step(model, None, how, protocol), pairs, optimizer, how, 0, Clock("cpu"))


def features(n: int, seed: int) -> np.ndarray:
    "(n, WIDTH), drawn."
    return np.random.default_rng(seed).standard_normal((n, WIDTH), np.float32)


def evaluate(n: int, folder: Path) -> Callable[[], object]:
    "As many clips as captions."
    video, text = features(n, 0), features(n, 1)
    return lambda: retrieval_metrics_of_features(video, text)


def evaluate_captions(n: int, folder: Path) -> Callable[[], object]:
    "Captions of a gallery that stays."
    video, text, positives = features(GALLERY, 0), features(n, 1), np.arange(n) % GALLERY
    return lambda: retrieval_metrics_of_features(video, text, positives)


def tokenize(n: int, folder: Path) -> Callable[[], object]:
    "Captions to ids, none of them seen before."
    words = sorted({word for caption in load_manifest(get_profile("mini")).caption for word in caption.split()})
    rng, ids = random.Random(0), tokenizer_for(get_profile("mini"))
    captions = [f"{' '.join(rng.choices(words, k=12))} {number}" for number in range(n)]
    return lambda: ids(captions, context_length=32)


def query(n: int, folder: Path) -> Callable[[], object]:
    "The ten best of so many clips, a hundred times."
    video = torch.nn.functional.normalize(torch.from_numpy(features(n, 0)), dim=-1)
    asked = torch.from_numpy(features(100, 1)).split(1)
    return lambda: [rank_exactly(cosines_of_normal, video, one, 10) for one in asked]


class Growth(NamedTuple):
    "A step, what it is done with, and the exponent that it cannot do without."

    do: Callable[[int, Path], Callable[[], object]]
    of: str
    sizes: tuple[int, ...]
    exponent: float


STEPS = {
    "ingest": Growth(ingest, "clips", CLIPS, 1),
    "frames kept": Growth(keep_frames, "clips", CLIPS, 1),
    "a training epoch": Growth(epoch, "clips", CLIPS, 1),
    "evaluation": Growth(evaluate, "clips and captions", PAIRS, 2),
    "captions of 1,000 clips": Growth(evaluate_captions, "captions", CAPTIONS, 1),
    "captions to ids": Growth(tokenize, "captions", CAPTIONS[:3], 1),
    "a hundred queries": Growth(query, "clips", CAPTIONS, 1),
}

# --- how it is measured ---


def measure_here(name: str, n: int) -> dict:
    "Seconds of one step of one size in this process, and what it added to the peak memory."
    with tempfile.TemporaryDirectory() as folder:
        do, before = STEPS[name].do(n, Path(folder)), peak_gb()
        start = time.perf_counter()
        do()
        return {"n": n, "seconds": time.perf_counter() - start, "added_gb": round(peak_gb() - before, 4)}


def slope(rows: list[dict], value: str) -> float | None:
    "From the second largest size to the largest; None where nothing is seen of it."
    (n, low), (m, high) = ((row["n"], row[value]) for row in rows[-2:])
    return round(math.log(high / low) / math.log(m / n), 2) if low > 0 and high > 0 else None


def grown(name: str, sizes: list[int]) -> dict:
    "A step at every size, with the exponents of its time and memory."
    rows = [in_own_process(__file__, "--only", name, "--here", n) for n in sizes]
    step = STEPS[name]
    found = {"step": name, "of": step.of, "rows": rows, "mathematics": step.exponent}
    if len(rows) > 1:
        found |= {"exponent": slope(rows, "seconds"), "exponent_of_memory": slope(rows, "added_gb")}
    told = ", ".join(f"{row['n']:,} in {row['seconds']:.3g} s, {row['added_gb']:.2f} GB" for row in rows)
    print(f"{name}: {told}; exponent {found.get('exponent')}, mathematics {step.exponent}", flush=True)
    return found


def seconds_over_sizes(found: list[dict]) -> Figure:
    "A line a step."
    fig, ax = subplots(1, 1, figsize=(8, 4.5))
    for one, colour in zip(found, itertools.cycle(COLOURS.values()), strict=False):
        sizes, seconds = zip(*((row["n"], row["seconds"]) for row in one["rows"]), strict=True)
        label = f"{one['step']}: {exponent_shown(one.get('exponent'))}"
        ax.plot(sizes, seconds, color=colour, marker=mark_of(colour), label=label)
    ax.set(xscale="log", yscale="log", xlabel="clips or captions", ylabel="seconds")
    ax.set_title("With exponents between the two largest sizes")
    fig.legend(loc="outside upper right" if is_narrow() else "outside right upper")
    return fig


def sizes_of(name: str, clips: str, most: int) -> list[int]:
    "The sizes to measure of a step."
    sizes = STEPS[name].sizes
    if clips and sizes is CLIPS:
        sizes = tuple(sorted(int(n) for n in clips.split(",")))
    return [n for n in sizes if n <= most]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--clips", default="", help="numbers of clips to ingest, keep and train on, by commas")
    parser.add_argument("--most", type=int, default=10**6, help="leave out what is larger")
    parser.add_argument("--only", default="", help="one step")
    parser.add_argument("--here", type=int, help=argparse.SUPPRESS)
    args, before = parser.parse_args(), load()
    torch.set_num_threads(1)
    names = [choose(args.only, list(STEPS), "step")] if args.only else list(STEPS)
    if args.here:
        return print(json.dumps(measure_here(names[0], args.here)))
    if not (data_dir(get_profile("mini")) / "clips").is_dir():
        raise UserError("The clips of the mini world are not there; run `frames-matter dataset build` first.")
    found = [grown(name, sizes) for name in names if (sizes := sizes_of(name, args.clips, args.most))]
    keep = not args.only and args.most >= 10**6
    if keep:
        draw_figure("growth", lambda: seconds_over_sizes(found))
    figure = {"growth.svg": "Seconds of each step over the number of clips or captions"}
    what = "one thread, each size once in a process of its own"
    write_record("growth", what, [], ("torch", "numpy", "av"), before, keep=keep, growth=found, figures=figure)


if __name__ == "__main__":
    run_script(main)
