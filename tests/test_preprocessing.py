"""The two named ways from a clip to what the model sees, each against its rule written out."""

import dataclasses
import subprocess

import numpy as np
import pytest
import torch
from laboratory_runs import run_of

from frames_matter.base.errors import UserError
from frames_matter.base.ffmpeg import find_ffmpeg
from frames_matter.base.profiles import get_profile
from frames_matter.data.dataset import VideoCaptionDataset
from frames_matter.labs import frames_runs, views
from frames_matter.labs.registry import LABORATORIES
from frames_matter.model.preprocessing import IMAGENET_MEAN, IMAGENET_STD, PRESETS, Preset, normalised, preprocess
from frames_matter.study.spec import RunSpec
from frames_matter.study.splits import FinalSplit
from frames_matter.video.frames import read_clip, read_frames, resize
from frames_matter.video.sampling import SAMPLERS, as_strategy, sample_indices


def test_the_presets_are_the_two_ways():
    assert {"demo": Preset("uniform", "bilinear"), "official": Preset("middle", "bicubic")} == PRESETS


def middles(n, k=8):
    """The official evaluation's frames.

    The clip in as many segments as frames are wanted, whole numbers for their ends, and the middle of each; the last
    one repeated.
    """
    m = min(k, n)
    ends = [int(i * n / m) for i in range(m + 1)]
    return ([(a + b - 1) // 2 for a, b in zip(ends, ends[1:], strict=False)] + [None] * k)[:k]


@pytest.mark.parametrize("k", [1, 4, 8])
def test_middle_frames_are_those_of_the_rule(k):
    for n in range(1, 400):
        rule = middles(n, k)
        last = [i for i in rule if i is not None][-1]
        assert sample_indices("middle", n, k).tolist() == [last if i is None else i for i in rule], n


def cubic(x, a=-0.75):
    "The cubic convolution kernel."
    x = abs(x)
    return (
        (a + 2) * x**3 - (a + 3) * x**2 + 1 if x <= 1 else a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0
    )


def resized_by_hand(line, size, mode):
    "One line of pixels resized: half-pixel centres, edges repeated, no antialias."
    n, out = len(line), []
    for i in range(size):
        x = (i + 0.5) * n / size - 0.5
        x = max(x, 0) if mode == "bilinear" else x
        left = int(np.floor(x))
        taps = range(left, left + 2) if mode == "bilinear" else range(left - 1, left + 3)
        weight = (lambda d: max(0, 1 - abs(d))) if mode == "bilinear" else cubic
        out.append(sum(weight(x - t) * line[min(max(t, 0), n - 1)] for t in taps))
    return np.array(out)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(40, 23), (9, 30)])
def test_resizing_is_the_rule_written_out(mode, shape):
    frame, size = np.random.default_rng(0).integers(0, 256, (*shape, 3)), 16
    rows = np.stack(
        [[resized_by_hand(frame[y, :, c], size, mode) for c in range(3)] for y in range(shape[0])]
    )  # (H, 3, size)
    expected = np.stack(
        [[resized_by_hand(rows[:, c, x], size, mode) for c in range(3)] for x in range(size)]
    )  # (x, 3, y)
    expected = expected.transpose(2, 0, 1).clip(0, 255)
    found = resize(frame[None].astype(np.uint8), size, mode)[0].astype(float)
    assert np.abs(found - expected).max() <= 0.51, "more than rounding"


@pytest.fixture(scope="module")
def forty_frames(tmp_path_factory):
    "A clip of 40 frames, of which each is another."
    path = tmp_path_factory.mktemp("clip") / "forty.mp4"
    source = ["-f", "lavfi", "-i", "testsrc2=size=96x72:rate=20:duration=2"]
    subprocess.run([find_ffmpeg(), "-loglevel", "error", *source, "-pix_fmt", "yuv420p", str(path)], check=True)
    assert len(read_frames(path)) == 40
    return path


def test_an_unknown_way_is_refused(forty_frames):
    with pytest.raises(UserError, match="bilinear, bicubic"):
        resize(np.zeros((1, 8, 8, 3), np.uint8), 4, "nearest")
    with pytest.raises(UserError, match="bilinear, bicubic"):
        read_clip(forty_frames, size=32, mode="lanczos")


def test_a_dataset_shows_what_its_preset_says(forty_frames):
    import pandas as pd

    path = forty_frames
    rows = pd.DataFrame([dict(clip_id="a", caption="A dog.", split="test", path=str(path))])
    for name, indices, mode in (("demo", range(0, 40, 5), "bilinear"), ("official", range(2, 40, 5), "bicubic")):
        expected = resize(read_frames(path, indices), 56, mode)
        video = VideoCaptionDataset(rows, "test", size=56, preprocessing=name)[0]["video"]
        assert torch.allclose(
            video, (torch.from_numpy(expected).permute(0, 3, 1, 2) / 255 - IMAGENET_MEAN) / IMAGENET_STD, atol=1e-6
        )
        keyframes = VideoCaptionDataset(rows, "test", "keyframes", size=56, preprocessing=name)[0]["video"]
        assert torch.equal(keyframes, preprocess(resize(read_frames(path, [0, 20] + [39] * 6), 56, mode), 56)), (
            "another strategy keeps its frames"
        )
    with pytest.raises(UserError, match="demo, official"):
        VideoCaptionDataset(rows, "test", preprocessing="paper")


def test_uniform_is_what_the_preset_takes():
    assert PRESETS["demo"].strategy_for("uniform") is SAMPLERS["uniform"]
    assert PRESETS["official"].strategy_for("uniform") is SAMPLERS["middle"]
    for preset in PRESETS.values():
        assert preset.strategy_for("keyframes") is preset.strategy_for(SAMPLERS["keyframes"]) is SAMPLERS["keyframes"]
    with pytest.raises(UserError, match="Unknown strategy"):
        PRESETS["demo"].strategy_for("every other")


# --- the frame laboratory under the official preset ---


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    "Specifications of the frame laboratory by what is shown, in a home of their own."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAMES_MATTER_HOME", str(tmp_path_factory.mktemp("home")))
        profile = get_profile("smoke", preprocessing="official")
        specs = LABORATORIES["frames"].specs(profile, progress=False)
        yield {s.option("control") or s.sampling: s for s in specs if s.seed == profile.seeds[0]}


def test_the_frame_laboratory_shows_and_films_the_preset_s_frames(official, monkeypatch):
    "What could be told is computed from the frames that were shown."
    filmed, tell = [], frames_runs.can_tell

    def can_tell(scene, strategy, *given):
        filmed.append(as_strategy(strategy).name)
        return tell(scene, strategy, *given)

    monkeypatch.setattr(frames_runs, "can_tell", can_tell)
    uniform, middle = (run_of(official[name])["metrics"] for name in ("uniform", "middle"))
    assert uniform == middle and set(filmed) == {"middle"}


def test_frames_of_ones_own_choice_are_resized_as_the_preset_says(official):
    rows = FinalSplit(official["multi_view"]).read().rows
    frames = views.own_frames(official["multi_view"], rows, lambda n: np.arange(2))
    size = official["multi_view"].image_size
    expected = [preprocess(resize(read_frames(path, [0, 1]), size, "bicubic"), size) for path in rows.path]
    assert torch.equal(normalised(frames), torch.stack(expected))


@pytest.mark.parametrize("shown", ["keyframes", "multi_view", "text_conditioned", "text_only"])
def test_the_frame_laboratory_computes_in_the_precision_asked_for(official, monkeypatch, shown):
    precisions, encode = set(), frames_runs.encode_clips

    def encode_clips(*given, precision="fp32", **named):
        precisions.add(precision)
        return encode(*given, precision=precision, **named)

    for module in (frames_runs, views):
        monkeypatch.setattr(module, "encode_clips", encode_clips)
    run_of(dataclasses.replace(official[shown], precision="bf16"))
    assert precisions == {"bf16"}


def test_a_run_of_the_other_way_is_another_run():
    spec = RunSpec(
        "mini",
        "zero_shot",
        "viclip",
        "infonce",
        "uniform",
        "sound",
        0,
        0,
        1e-4,
        0.02,
        4,
        0.07,
        0.5,
        8,
        64,
        "nano",
        "data",
        "sha",
    )
    official = dataclasses.replace(spec, preprocessing="official")
    assert spec.preprocessing == get_profile("mini").preprocessing == get_profile("internvid").preprocessing == "demo"
    assert (
        official.hash != spec.hash
        and official.identity["preprocessing"] == "official"
        and "preprocessing" not in spec.identity
    )
