"""The mini world: the same seed gives the same rows and pixels, and a scene comes back whole from its truth."""

import hashlib
import json
import random
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from frames_matter.world.captions import caption
from frames_matter.world.films import WORLD_VERSION, draw_up
from frames_matter.world.nano import FACTS, UNKNOWN, fact_labels
from frames_matter.world.rendering import evidence, render
from frames_matter.world.scenes import FACT_KINDS, flip, random_scene
from frames_matter.world.truth import relevance, scene_of

FRAMES = Path(__file__).parent / "golden" / "world_frames.npz"
TABLES = {  # of draw_up(42, 10, 6), for each version of the world
    2: "5bb5fc2901e70e32815af724a4f96929ff0ce90e6ebbc6b48f04a17d354952d1",
}


def scene_of_kind(kind):
    "One scene of a kind, always the same."
    return random_scene(random.Random(kind), kind, seconds=6)


def test_rows_and_truth_are_of_their_version():
    "Who changes what a seed draws raises WORLD_VERSION, and adds the new hash here."
    _, rows, truth, damaged = draw_up(42, 10, 6)
    text = json.dumps([rows, truth, sorted(damaged)])
    assert hashlib.sha256(text.encode()).hexdigest() == TABLES[WORLD_VERSION]


@pytest.mark.parametrize("kind", FACT_KINDS)
def test_pixels_are_of_their_version(kind):
    "Frames of every kind of fact against stored ones; one grey level is left to a machine's last digits."
    with np.load(FRAMES) as golden:
        stored = golden[kind]
    drawn = render(scene_of_kind(kind), [0.1, 0.9], height=24, width=32)
    assert np.abs(drawn.astype(int) - stored).max() <= 1


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
