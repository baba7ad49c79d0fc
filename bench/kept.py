"""Frames of clips of the mini world the second time, from where they are kept, beside decoding them again.

frames-matter bench kept
"""

import tempfile
from pathlib import Path

import torch
from _measure import OURS, in_turns, load, stage, write_record
from _script import run_script

from frames_matter.base.errors import UserError
from frames_matter.base.profiles import data_dir, get_profile
from frames_matter.video.frames import read_clip
from frames_matter.video.kept import FrameCache, read_kept
from frames_matter.video.sampling import SAMPLERS

CLIPS, ROUNDS, SIZE, K = 40, 3, 64, 8
STRATEGIES = ("uniform", "weighted", "mean", "motion")


def clips() -> list[Path]:
    for name in ("mini", "smoke"):
        if found := sorted((data_dir(get_profile(name)) / "clips").glob("*.mp4"))[:CLIPS]:
            return found
    raise UserError("No clips to read; run `frames-matter dataset build` first.")


def read_all(cache: FrameCache, paths: list[Path], strategy: str) -> None:
    for path in paths:
        read_kept(cache, path, "", SAMPLERS[strategy], K, SIZE)


def measured(folder: str, paths: list[Path], strategy: str) -> dict:
    read_all(FrameCache(folder, 2**32), paths, strategy)
    same_process = FrameCache(folder, 2**32)
    read_all(same_process, paths, strategy)
    ways = {
        OURS: lambda: read_all(same_process, paths, strategy),
        "another process's first time": lambda: read_all(FrameCache(folder, 2**32), paths, strategy),
        "decoding": lambda: [read_clip(path, strategy, K, SIZE) for path in paths],
    }
    return stage(f"{len(paths)} clips again, {strategy}", in_turns(ways, ROUNDS))


def main() -> None:
    before = load()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        stages = [measured(folder, clips(), strategy) for strategy in STRATEGIES]
    what = f"{K} frames of {SIZE} pixels a side, one thread, {ROUNDS} rounds in turns"
    write_record("kept", what, stages, ("av", "torch"), before)


if __name__ == "__main__":
    run_script(main)
