"""Frames that are kept: the same as decoded, never believed when damaged, bounded, and of no need."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from frames_matter.base.errors import UserError
from frames_matter.base.ffmpeg import find_ffmpeg
from frames_matter.base.profiles import data_dir, get_profile
from frames_matter.data.dataset import VideoCaptionDataset
from frames_matter.data.manifest import load_manifest
from frames_matter.video import kept
from frames_matter.video.frames import read_clip
from frames_matter.video.kept import FrameCache, frame_cache, read_kept
from frames_matter.video.sampling import SAMPLERS, Strategy


@pytest.fixture
def clips(smoke_home, tmp_path):
    "Three clips of the mini world, in a folder of their own."
    paths = sorted((data_dir(get_profile("smoke")) / "clips").glob("*.mp4"))[:3]
    return [Path(shutil.copy(path, tmp_path)) for path in paths]


@pytest.fixture
def cache(tmp_path):
    return FrameCache(tmp_path / "frames", 2**28)


def no_decoding(monkeypatch):
    for name in ("read_clip", "read_frames", "read_small_frames"):
        monkeypatch.setattr(kept, name, lambda *a, **b: pytest.fail("a clip was decoded again"))


def files(cache):
    return sorted(cache.folder.glob("*/*.frames"))


@pytest.mark.parametrize("clip_bytes", [kept.CLIP_BYTES, 0], ids=["a short clip", "one too long to be kept whole"])
@pytest.mark.parametrize("strategy", SAMPLERS)
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_it_is_what_decoding_gives_and_is_not_decoded_twice(clips, cache, strategy, mode, clip_bytes, monkeypatch):
    monkeypatch.setattr(kept, "CLIP_BYTES", clip_bytes)
    how = dict(k=5, size=48, seed=3, mode=mode)
    decoded = read_clip(clips[0], strategy, **how)
    assert np.array_equal(read_kept(cache, clips[0], "", SAMPLERS[strategy], **how), decoded)
    no_decoding(monkeypatch)
    for again in (cache, FrameCache(cache.folder, cache.limit)):  # and by another process
        assert np.array_equal(read_kept(again, clips[0], "", SAMPLERS[strategy], **how), decoded)


@pytest.mark.parametrize("most", [0, 2**20, 2**26])
def test_few_files_stay_mapped_and_none_is_checked_twice(clips, cache, monkeypatch, most):
    "Pages of clips that nobody looks at take no memory; to look again costs no checksum and no decoding."
    monkeypatch.setattr(kept, "MAPPED_BYTES", most)
    read = [read_kept(cache, path, "", SAMPLERS["uniform"], 8, 48) for path in clips]
    no_decoding(monkeypatch)
    monkeypatch.setattr(kept.zlib, "crc32", lambda *a: pytest.fail("a file was checked again"))
    for _ in range(2):
        again = [read_kept(cache, path, "", SAMPLERS["uniform"], 8, 48) for path in clips]
        assert all(map(np.array_equal, again, read))
    assert sum(frames.nbytes for frames in cache._mapped.values()) == cache._mapped_bytes <= most


def test_what_differs_is_kept_apart(clips, cache):
    "Another seed, size, number, way of resizing, clip."
    plain = dict(k=8, size=32, seed=0, mode="bilinear")
    for change in ({}, {"seed": 1}, {"size": 40}, {"k": 3}, {"mode": "bicubic"}):
        for path in clips:
            how = plain | change
            assert np.array_equal(
                read_kept(cache, path, "", SAMPLERS["weighted"], **how), read_clip(path, "weighted", **how)
            )


def test_who_changes_what_he_was_given_changes_nothing_that_is_kept(clips, cache):
    first = read_kept(cache, clips[0], "", SAMPLERS["uniform"], 8, 32)
    before = first.copy()
    first[:] = 0
    assert np.array_equal(read_kept(cache, clips[0], "", SAMPLERS["uniform"], 8, 32), before)


def test_a_strategy_of_one_s_own_is_known_by_what_it_does_not_by_its_name(clips, cache, monkeypatch):
    for clip_bytes in (kept.CLIP_BYTES, 0):
        monkeypatch.setattr(kept, "CLIP_BYTES", clip_bytes)
        for last in (False, True):
            own = Strategy("uniform", "mine", indices=lambda n, k, rng, last=last: [n - 1 if last else 0])
            assert np.array_equal(read_kept(cache, clips[0], "", own, 2, 32), read_clip(clips[0], own, 2, 32))


def test_a_clip_that_changes_is_decoded_anew(clips, cache):
    for path in clips:
        shutil.copy(path, clips[0].with_name("clip.mp4"))
        os.utime(clips[0].with_name("clip.mp4"), ns=(0, path.stat().st_mtime_ns + 1))
        taken = read_kept(cache, clips[0].with_name("clip.mp4"), "one", SAMPLERS["uniform"], 8, 32)
        assert np.array_equal(taken, read_clip(path, "uniform", 8, 32))


@pytest.mark.parametrize("damage", ["emptied", "cut", "one bit", "its end alone", "other frames"])
def test_what_is_damaged_is_decoded_anew(clips, cache, damage):
    decoded = read_kept(cache, clips[0], "", SAMPLERS["uniform"], 8, 32)
    (path,) = files(cache)
    whole = path.read_bytes()
    damaged = {
        "emptied": b"",
        "cut": whole[:-7],
        "one bit": whole[:50] + bytes([whole[50] ^ 8]) + whole[51:],
        "its end alone": whole[-40:],
        "other frames": b"\0" * len(whole),
    }[damage]
    path.write_bytes(damaged)
    assert np.array_equal(
        read_kept(FrameCache(cache.folder, cache.limit), clips[0], "", SAMPLERS["uniform"], 8, 32), decoded
    )
    assert path.read_bytes() == whole


def test_no_more_is_kept_than_may_be_and_the_oldest_go_first(clips, cache):
    for path in clips:
        read_kept(cache, path, "", SAMPLERS["uniform"], 8, 64)
    sizes = [path.stat().st_size for path in files(cache)]
    for age, path in enumerate(files(cache)):
        os.utime(path, (1000 + age, 1000 + age))
    oldest = files(cache)[0]
    small = FrameCache(cache.folder, sum(sizes) + 1000)
    read_kept(small, clips[0], "", SAMPLERS["uniform"], 8, 56)
    assert not oldest.exists() and sum(path.stat().st_size for path in files(cache)) <= small.limit
    nothing = FrameCache(cache.folder.with_name("none"), 100)
    assert len(read_kept(nothing, clips[0], "", SAMPLERS["uniform"], 8, 32)) == 8 and not files(nothing)


def test_it_is_a_help_and_no_need(clips, tmp_path):
    (tmp_path / "frames").write_text("a file where the folder should be")
    taken = read_kept(FrameCache(tmp_path / "frames", 2**28), clips[0], "", SAMPLERS["motion"], 8, 32)
    assert np.array_equal(taken, read_clip(clips[0], "motion", 8, 32))
    assert frame_cache(get_profile("smoke", kept_bytes=0)) is None


def test_a_film_that_is_damaged_behind_the_last_frame_taken_is_still_read(cache, tmp_path):
    path = tmp_path / "long.mp4"
    source = ["-f", "lavfi", "-i", "testsrc2=size=320x240:rate=25:duration=12", "-g", "25"]
    subprocess.run([find_ffmpeg(), "-v", "error", *source, path], check=True)
    first = Strategy("first", "the first frame", indices=lambda n, k, rng: [0])
    expected, data = read_clip(path, first, 1, 32), bytearray(path.read_bytes())
    damaged = data.index(b"mdat") + 9 * len(data) // 10
    data[damaged : damaged + 500] = b"\xff" * 500
    path.write_bytes(data)
    with pytest.raises(UserError, match="cannot be decoded to its end"):
        read_clip(path, "keyframes", 3, 32)
    assert np.array_equal(read_kept(cache, path, "", first, 1, 32), expected)


def test_a_clip_that_is_gone_is_told(clips, cache):
    read_kept(cache, clips[0], "one", SAMPLERS["uniform"], 8, 32)
    clips[0].unlink()
    with pytest.raises(UserError, match="No video at"):
        read_kept(cache, clips[0], "one", SAMPLERS["uniform"], 8, 32)


def test_a_data_set_of_a_profile_keeps_its_frames(smoke_home):
    profile = get_profile("smoke")
    plain = VideoCaptionDataset(load_manifest(profile), "train", "weighted", size=40, seed=2)
    cached = VideoCaptionDataset(profile, "train", "weighted", size=40, seed=2)
    for epoch in (0, 1):
        plain.set_epoch(epoch), cached.set_epoch(epoch)
        for i in range(len(plain)):
            assert plain[i]["video"].equal(cached[i]["video"])


def test_clips_whose_pictures_a_manifest_does_not_tell_are_told_apart_by_their_paths(clips, cache):
    "Files of one size and time, as archives unpack them, are not one clip."
    longest = max(path.stat().st_size for path in clips)
    for path in clips:
        path.write_bytes(path.read_bytes().ljust(longest, b"\0"))
        os.utime(path, (1000, 1000))
    rows = pd.DataFrame(dict(clip_id=["a", "b", "c"], caption="", split="train", path=list(map(str, clips))))
    data = VideoCaptionDataset(rows.assign(pictures=np.nan), "train", size=40, cache=cache)
    plain = VideoCaptionDataset(rows, "train", size=40)
    assert all(data[i]["video"].equal(plain[i]["video"]) for i in range(3))
    assert not plain[0]["video"].equal(plain[1]["video"])


AT_ONCE = """
import sys
from frames_matter.video.kept import FrameCache, read_kept
from frames_matter.video.sampling import SAMPLERS
cache = FrameCache(sys.argv[1], 3_000_000)
print([int(read_kept(cache, path, "", SAMPLERS[name], 8, 40, seed).sum())
       for path in sys.argv[2:] for seed in range(5) for name in ("uniform", "motion", "weighted")])
"""


@pytest.mark.slow
def test_processes_at_once_and_a_limit_that_is_too_small_for_them(clips, cache):
    "What each has read is right, and what is left is within the limit and whole."
    command = [sys.executable, "-c", AT_ONCE, str(cache.folder), *map(str, clips)]
    together = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {process.communicate()[0] for process in together}
    assert all(process.returncode == 0 for process in together) and len(said) == 1
    expected = [
        int(read_clip(path, name, 8, 40, seed).sum())
        for path in clips
        for seed in range(5)
        for name in ("uniform", "motion", "weighted")
    ]
    assert eval(said.pop()) == expected
    assert all(kept._mapped(path) is not None for path in files(cache))
