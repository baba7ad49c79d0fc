"""Reading 8 uniform frames of a clip: the package's reader (decord) against an ffmpeg pipe, one thread each, in turns, in one run.

    frames-matter bench decode
    python bench/decode.py [VIDEO ...]      default: the clips of the profile mini, else of smoke

Both are given the frame numbers and return the same frames at the same size; the run stops if they do not agree.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
import numpy as np

from frames_matter.base.errors import UserError
from frames_matter.base.ffmpeg import find_ffmpeg
from frames_matter.base.files import atomic_write, project_root
from frames_matter.base.profiles import data_dir, get_profile
from frames_matter.video.frames import probe_clip, read_frames
from frames_matter.video.sampling import sample_indices

K, SIZE, ROUNDS, LIMIT = 8, 64, 5, 40


def clips():
    "The files to read: those named, or the clips that are there."
    if sys.argv[1:]:
        return [Path(p) for p in sys.argv[1:]]
    for name in ("mini", "smoke"):
        if found := sorted((data_dir(get_profile(name)) / "clips").glob("*.mp4"))[:LIMIT]:
            return found
    raise UserError("No clips to read; run `frames-matter dataset build` first.")


def with_decord(path, indices):
    return read_frames(path, indices, SIZE)


def with_ffmpeg(path, indices):
    "Let one ffmpeg process decode, choose and scale; read its raw output."
    wanted = sorted(set(map(int, indices)))
    choose = f"select='{'+'.join(f'eq(n,{i})' for i in wanted)}',scale={SIZE}:{SIZE}:flags=bilinear"
    raw = subprocess.run(
        [
            find_ffmpeg(),
            "-v",
            "error",
            "-threads",
            "1",
            "-i",
            path,
            "-vf",
            choose,
            "-fps_mode",
            "passthrough",
            "-frames:v",
            str(len(wanted)),
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "-",
        ],
        capture_output=True,
        check=True,
    ).stdout
    frames = np.frombuffer(raw, np.uint8).reshape(-1, SIZE, SIZE, 3)
    return frames[[wanted.index(int(i)) for i in indices]]


READERS = {"decord": with_decord, "ffmpeg pipe": with_ffmpeg}


def main():
    paths = clips()
    chosen = {p: sample_indices("uniform", probe_clip(p)["frames"], K) for p in paths}
    apart = [np.abs(with_decord(p, chosen[p]).astype(int) - with_ffmpeg(p, chosen[p])).mean() for p in paths]
    if max(apart) > 16:
        raise UserError(
            f"The two readers return different frames ({max(apart):.0f} grey levels apart): nothing to compare."
        )
    times = {name: [] for name in READERS}  # ms a clip
    for _ in range(ROUNDS):
        for path in paths:
            for name, read in READERS.items():
                start = time.perf_counter()
                read(path, chosen[path])
                times[name].append(1000 * (time.perf_counter() - start))
    rows = {
        name: {"median_ms": round(statistics.median(t), 2), "p90_ms": round(sorted(t)[int(0.9 * len(t))], 2)}
        for name, t in times.items()
    }
    record = {
        "command": "frames-matter bench decode",
        "what": f"{K} uniform frames at {SIZE}x{SIZE}, {len(paths)} clips, {ROUNDS} rounds in turns",
        "readers": rows,
        "mean_grey_levels_apart": round(float(np.mean(apart)), 2),
        "versions": {
            "python": platform.python_version(),
            "decord2": metadata.version("decord2"),
            "ffmpeg": ffmpeg_version(),
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    if not sys.argv[1:]:
        atomic_write(project_root() / "results" / "bench" / "decode.json", json.dumps(record, indent=1) + "\n")
    print(record["what"])
    for name, row in rows.items():
        print(f"{name:12} median {row['median_ms']:7.1f} ms   90 % under {row['p90_ms']:7.1f} ms")


def ffmpeg_version():
    return subprocess.run([find_ffmpeg(), "-version"], capture_output=True, text=True).stdout.split()[2]


if __name__ == "__main__":
    try:
        main()
    except UserError as e:
        sys.exit(print(e, file=sys.stderr) or 2)
