"""The mini world: the same seed gives the same rows and pixels, and a scene comes back whole from its truth."""

import hashlib
import itertools
import json
import platform
import random
import subprocess
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from frames_matter.base.errors import UserError
from frames_matter.base.ffmpeg import find_ffmpeg
from frames_matter.data.cut import cut_clip
from frames_matter.video.frames import read_clip
from frames_matter.world import films
from frames_matter.world.captions import caption
from frames_matter.world.films import WORLD_VERSION, as_yuv420, draw_up, encode_video, random_video
from frames_matter.world.nano import (
    FACTS,
    FRAME_WAYS,
    UNKNOWN,
    Pretraining,
    Stage,
    drawn_clips,
    fact_labels,
    slice_clip,
)
from frames_matter.world.rendering import blend_shows_fact, evidence, render
from frames_matter.world.scenes import FACT_KINDS, flip, random_scene
from frames_matter.world.shifts import NO_SHIFT, Shift
from frames_matter.world.truth import relevance, scene_of

FRAMES = Path(__file__).parent / "golden" / "world_frames.npz"
TABLES = {  # of draw_up(42, 10, 6), for each version of the world
    2: "5bb5fc2901e70e32815af724a4f96929ff0ce90e6ebbc6b48f04a17d354952d1",
    3: "bd8dad4f904e8427e08876162ba60cd46a71cb1313afde318d2e290994f8bba8",
    4: "c149d2d081fe83b2a0323695d60294c11393438061d0b053a9df7951d9686a0e",
}


SHIFTED = {
    "light": Shift(light="strong"),
    "noise": Shift(noise="strong"),
    "novelty": Shift(novelty="strong"),
    "all": Shift(*["mild"] * 4),
}


def scene_of_kind(kind, shift=NO_SHIFT):
    "One scene of a kind, always the same."
    return random_scene(random.Random(kind), kind, seconds=6, novelty=shift.novelty)


def drawn(kind, shift=NO_SHIFT):
    return render(scene_of_kind(kind, shift), [0.1, 0.9], height=24, width=32, shift=shift)


def test_rows_and_truth_are_of_their_version():
    "Who changes what a seed draws raises WORLD_VERSION, and adds the new hash here."
    _, rows, truth, damaged = draw_up(42, 10, 6)
    text = json.dumps([rows, truth, sorted(damaged)])
    assert hashlib.sha256(text.encode()).hexdigest() == TABLES[WORLD_VERSION]


@pytest.mark.parametrize("kind", FACT_KINDS)
def test_pixels_are_of_their_version(kind):
    "Frames of every kind of fact against stored ones, to the last grey level: on every machine."
    with np.load(FRAMES) as golden:
        assert np.array_equal(drawn(kind), golden[kind])


@pytest.mark.parametrize("name", SHIFTED)
def test_pixels_of_a_shifted_world_are_of_their_version(name):
    with np.load(FRAMES) as golden:
        assert np.array_equal(drawn("appearance", SHIFTED[name]), golden[name])


def without(row, *names):
    return {name: value for name, value in row.items() if name not in names}


@pytest.mark.parametrize("name", SHIFTED)
def test_a_shift_changes_what_it_names_and_nothing_else(name):
    shift = SHIFTED[name]
    (videos, rows, truth, damaged), shifted = draw_up(3, 4, 2), draw_up(3, 4, 2, shift=shift)
    is_new, is_reworded = shift.novelty != "none", shift.wording != "none"
    assert [video.id for video in videos] == [video.id for video in shifted[0]]
    assert damaged == shifted[3]
    assert [without(row, "Caption") for row in rows] == [without(row, "Caption") for row in shifted[1]]
    same = [row == other for row, other in zip(truth, shifted[2], strict=True)]
    assert all(same) == (not is_new and not is_reworded)
    for row, other in zip(truth, shifted[2], strict=True):
        assert without(row["facts"], "subject", "other") == without(other["facts"], "subject", "other")
        assert (row["facts"] == other["facts"]) or is_new
        assert row["evidence"] == other["evidence"]


def details(row):
    "What a scene shows, detail by detail, but for how long and how it is laid out."
    facts = without(row["facts"], "seconds", "layout")
    things = [facts.pop("subject"), facts.pop("other")]
    return facts | {(i, name): value for i, thing in enumerate(things) for name, value in thing.items()}


def test_a_scene_repeats_scenes_of_its_own_video():
    "But for the few that are alike to the last detail, and have that one's kin; else clips of two videos are free."
    _, _, truth, _ = draw_up(42, 2, 62)
    shown = [details(row) for row in truth]
    near = {True: set(), False: set()}
    for i, j in itertools.combinations(range(len(truth)), 2):
        if sum(shown[i][name] != shown[j][name] for name in shown[i]) == 1 and truth[i]["kind"] == truth[j]["kind"]:
            near[truth[i]["id"] == truth[j]["id"]] |= {i, j}
    assert len(near[True]) > len(truth) / 2 and len(near[False]) < len(truth) / 5


@pytest.mark.parametrize("seed", [1, 2, 42])
def test_no_kind_of_fact_fills_the_world(seed):
    _, _, truth, _ = draw_up(seed, 2, 62)
    kinds = Counter(row["kind"] for row in truth)
    assert len(kinds) == len(FACT_KINDS) and max(kinds.values()) < 3 * min(kinds.values())


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names of an x86 processor's instructions")
def test_what_a_clip_shows_does_not_hang_on_the_encoder(tmp_path, monkeypatch):
    "Encoded by each code path of x264, films and clips decode to the pixels that were rendered."
    video = random_video(random.Random(3), 2)
    start, scene = video.scenes[0].seconds, video.scenes[1]
    n = round(scene.seconds * video.fps)
    rendered = as_yuv420(render(scene, np.arange(n) / n))
    frames, command = [], films._encoder_command
    for instructions in ("none", "sse2", "avx2", "avx512"):
        path, clip = tmp_path / f"{instructions}.mp4", tmp_path / f"{instructions}_clip.mp4"
        told = ["-x264-params", f"asm={instructions}"]
        monkeypatch.setattr(films, "_encoder_command", lambda fps, told=told: [*command(fps), *told])
        encode_video(video, path)
        assert cut_clip(path, clip, start, start + scene.seconds) == hashlib.sha256(rendered).hexdigest()
        frames.append(read_clip(clip, size=64))
    assert all(np.array_equal(frames[0], others) for others in frames)
    words = [find_ffmpeg(), "-v", "error", "-i", clip, "-f", "rawvideo", "-pix_fmt", "yuv420p", "-"]
    assert subprocess.run(words, capture_output=True, check=True).stdout == rendered


@pytest.mark.parametrize("kind", FACT_KINDS)
def test_a_foil_differs_in_its_fact_alone(kind):
    scene = scene_of_kind(kind)
    foil = flip(scene)
    assert caption(scene, 1)[0] != caption(foil, 1)[0]
    assert caption(scene, 1)[1] == caption(foil, 1)[1]
    assert (foil.background, foil.camera, foil.seconds, foil.layout) == (
        scene.background,
        scene.camera,
        scene.seconds,
        scene.layout,
    )


@pytest.mark.parametrize("kind", FACT_KINDS)
def test_evidence_lies_within_the_clip(kind):
    for start, end in evidence(scene_of_kind(kind)):
        assert 0 <= start < end <= 1


def test_a_scene_comes_back_from_its_truth():
    _, _, truth, _ = draw_up(3, 4, 2)
    for row in truth:
        scene = scene_of(row)
        assert asdict(scene) == row["facts"]
        assert caption(scene, scene.layout)[0] == row["caption"]


def test_relevance_of_two_scenes_by_hand():
    "A caption that states nothing but kind, value, colour and shape: of those four, the other scene fulfils three."
    scene = random_scene(random.Random(1), "speed")
    rows = [{"kind": "speed", "states": [], "facts": asdict(s)} for s in (scene, flip(scene))]
    assert relevance(rows).tolist() == [[1, 0.75], [0.75, 1]]


@pytest.mark.parametrize("kind", FACT_KINDS)
def test_labels_leave_out_what_is_not_stated(kind):
    labels = dict(zip(FACTS, fact_labels(scene_of_kind(kind), states=["texture"]), strict=True))
    assert labels["size"] == labels["background"] == UNKNOWN
    assert labels["texture"] != UNKNOWN
    assert FACTS["kind"][labels["kind"]] == kind


@pytest.mark.parametrize("way", FRAME_WAYS)
def test_a_way_to_take_frames_takes_eight_of_the_clip_in_order(way):
    for n in range(24, 114):
        taken = FRAME_WAYS[way].take(random.Random(n), n)
        assert len(taken) == 8
        assert taken == sorted(taken)
        assert 0 <= taken[0] <= taken[-1] < n


def test_the_slice_takes_frames_in_the_ways_that_are_named():
    "By name, a name that is none is told; half of the slice was taken evenly once, and a model has its favourites."
    config, kinds = Pretraining(), {"order": 1}
    evenly, all_ways = Stage(1, ("evenly",), kinds), Stage(1, tuple(FRAME_WAYS), kinds)
    times = [np.diff(slice_clip(config, evenly, "order", i).times) for i in range(20)]
    assert all(np.allclose(steps, steps[0]) for steps in times)
    blended = sum(slice_clip(config, all_ways, "order", i).is_blended for i in range(400))
    assert 5 <= blended <= 40  # 20 are expected
    with pytest.raises(UserError, match="Unknown way to take frames 'often'; valid: "):
        slice_clip(config, Stage(1, ("often",), kinds), "order", 0)


def test_stages_follow_one_another():
    "Each step is of one stage, and a scene is the same in all of them, whatever frames are taken."
    config = Pretraining()
    first, last = config.stages[0], config.stages[-1]
    assert config.stage_of(first.steps - 1) is first and config.stage_of(config.steps - 1) is last
    one, again = (slice_clip(config, stage, "order", 3) for stage in (first, last))
    assert one.scene == again.scene and one.times != again.times


def test_kinds_come_in_the_shares_of_their_stage():
    "And none that it leaves out."
    only = Stage(10, ("evenly",), {"appearance": 3, "speed": 1})
    config = Pretraining(stages=(only,), scenes_a_step=40)
    kinds = [clip.scene.kind for step in range(10) for clip in drawn_clips(config, step)]
    assert set(kinds) == {"appearance", "speed"}
    assert 260 <= kinds.count("appearance") <= 340  # 300 are expected


def test_the_mean_of_frames_shows_what_is_there_and_how_fast_it_swings():
    "And neither order nor direction, whose foils have the very same mean."
    moments = np.arange(40) / 40
    told = {kind: blend_shows_fact(scene_of_kind(kind), moments) for kind in FACT_KINDS}
    assert {kind for kind, is_told in told.items() if is_told} == {"appearance", "count", "speed"}
    still = scene_of_kind("speed")
    assert not blend_shows_fact(still, [0.5])
    order = scene_of_kind("order")
    mean, of_foil = (render(scene, moments, 24, 32).mean(axis=0) for scene in (order, flip(order)))
    assert np.abs(mean - of_foil).max() < 1e-9
