"""Reading 8 uniform frames of a clip: the package's reader beside decord, an ffmpeg pipe and, where it is, OpenCV.

    frames-matter bench decode
    python bench/decode.py [VIDEO ...]      default: the clips of the profile mini, else of smoke

One thread each, in turns, in one run. All are given the frame numbers and return the same frames at the same size; the
run stops if they do not agree.
"""

import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
import numpy as np
from _measure import OURS, load, stage, write_record
from _script import run_script

from frames_matter.base.errors import UserError
from frames_matter.base.ffmpeg import find_ffmpeg
from frames_matter.base.profiles import data_dir, get_profile
from frames_matter.video.frames import clip_facts, read_frames, resize
from frames_matter.video.sampling import sample_indices

K = 8  # frames a clip
SIZE = 64  # pixels a side
ROUNDS = 5
CLIPS = 40  # at most
APART = 16  # grey levels by which two decoders' frames may differ in the mean: they scale otherwise


def clips_to_read(named: list[str]) -> list[Path]:
    "The files to read: those named, or the clips that are there."
    if named:
        return [Path(p) for p in named]
    for name in ("mini", "smoke"):
        if found := sorted((data_dir(get_profile(name)) / "clips").glob("*.mp4"))[:CLIPS]:
            return found
    raise UserError("No clips to read; run `frames-matter dataset build` first.")


FILMS = {  # as phones and cameras make them: size, seconds
    "of 720p, 12 s": ("1280x720", 12),
    "upright, 720 x 1280, 12 s": ("720x1280", 12),
    "of 360p, 3 s": ("640x360", 3),
}


def made_film(folder: str, size: str, seconds: int) -> Path:
    "A moving test picture with the noise of a camera, in H.264 with B-frames."
    path = Path(folder) / f"{size}.mp4"
    source = ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate=30:duration={seconds}", "-vf", "noise=alls=8:allf=t"]
    how = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "26", "-bf", "3", "-pix_fmt", "yuv420p"]
    subprocess.run([find_ffmpeg(), "-v", "error", *source, *how, path], check=True)
    return path


def read_with_av(path: Path, indices: np.ndarray) -> np.ndarray:
    "The frames (K, SIZE, SIZE, 3) as the package reads them."
    return read_frames(path, indices, SIZE)


def read_with_decord(path: Path, indices: np.ndarray) -> np.ndarray:
    "As the study could have read them: by decord's own index, resized as here."
    import decord

    return resize(decord.VideoReader(str(path), num_threads=1).get_batch(indices).asnumpy(), SIZE)


def read_with_opencv(path: Path, indices: np.ndarray) -> np.ndarray:
    "As the study did: every frame decoded, some of them taken."
    import cv2

    cv2.setNumThreads(1)
    video, frames = cv2.VideoCapture(str(path)), []
    while (read := video.read())[0]:
        frames.append(read[1])
    return np.stack([cv2.resize(frames[i], (SIZE, SIZE))[..., ::-1] for i in indices])


def read_with_ffmpeg(path: Path, indices: np.ndarray) -> np.ndarray:
    "The same frames from one ffmpeg process, which decodes, chooses and scales; its raw output is read."
    wanted = sorted(set(map(int, indices)))
    choose = f"select='{'+'.join(f'eq(n,{i})' for i in wanted)}',scale={SIZE}:{SIZE}:flags=bilinear"
    frames_out = f"-fps_mode passthrough -frames:v {len(wanted)} -f rawvideo -pix_fmt rgb24 -"
    command = [find_ffmpeg(), "-v", "error", "-threads", "1", "-i", path, "-vf", choose, *frames_out.split()]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    frames = np.frombuffer(raw, np.uint8).reshape(-1, SIZE, SIZE, 3)
    return frames[[wanted.index(int(i)) for i in indices]]


READERS = {OURS: read_with_av, "decord": read_with_decord, "ffmpeg pipe": read_with_ffmpeg}
if find_spec("cv2"):  # no requirement: `pip install opencv-python-headless` to have it beside
    READERS["OpenCV, all decoded"] = read_with_opencv


def grey_levels_apart(chosen: dict[Path, np.ndarray]) -> dict[str, float]:
    "How far each reader's frames are from ours, in the mean of all clips; an error if they are other frames."
    apart = {name: [] for name in READERS if name != OURS}
    for path, indices in chosen.items():
        ours = read_with_av(path, indices).astype(int)
        for name, of_clips in apart.items():
            of_clips.append(np.abs(ours - READERS[name](path, indices)).mean())
    for name, of_clips in apart.items():
        if max(of_clips) > APART:
            raise UserError(f"{name} returns other frames ({max(of_clips):.0f} grey levels apart): nothing to compare.")
    return {name: round(float(np.mean(of_clips)), 2) for name, of_clips in apart.items()}


def seconds(chosen: dict[Path, np.ndarray]) -> dict[str, list[float]]:
    "What each reading of a clip took, by reader."
    times = {name: [] for name in READERS}
    for _ in range(ROUNDS):
        for path, indices in chosen.items():
            for name, read in READERS.items():
                start = time.perf_counter()
                read(path, indices)
                times[name].append(time.perf_counter() - start)
    return times


def ffmpeg_version() -> str:
    "What ffmpeg says it is."
    said = subprocess.run([find_ffmpeg(), "-version"], capture_output=True, text=True).stdout
    return said.split()[2]


def main(arguments: list[str]) -> None:
    """Measure, write the record where the clips are the default ones, and print it."""
    paths, before = clips_to_read(arguments), load()
    chosen = {p: sample_indices("uniform", clip_facts(p)["frames"], K) for p in paths}
    apart = grey_levels_apart(chosen)
    stages = [stage(f"{K} uniform frames of a clip of the mini world", seconds(chosen))]
    with tempfile.TemporaryDirectory() as folder:
        for words, (size, length) in FILMS.items():
            film = made_film(folder, size, length)
            indices = {film: sample_indices("uniform", clip_facts(film)["frames"], K)}
            stages.append(stage(f"{K} uniform frames of a film {words}", seconds(indices)))
    what = (
        f"at {SIZE} pixels a side, one thread, {len(paths)} clips, {ROUNDS} rounds in turns; ffmpeg {ffmpeg_version()}"
    )
    more = dict(mean_grey_levels_apart=apart, keep=not arguments)
    write_record("decode", what, stages, ("av", "decord2"), before, **more)


if __name__ == "__main__":
    run_script(main, sys.argv[1:])
