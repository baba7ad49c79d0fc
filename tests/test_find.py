"""Searching one's clips: what is found, what is kept, what is said, and what a page holds."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import serve_hub

import frames_matter as fm
from frames_matter.base.errors import UserError
from frames_matter.base.profiles import data_dir, get_profile
from frames_matter.cli import run_command
from frames_matter.clips import features
from frames_matter.clips.features import clip_features, encoder_for
from frames_matter.clips.find import find, write_gallery
from frames_matter.data.manifest import load_manifest
from frames_matter.data.sources import strange_to_model
from frames_matter.model.heads import FusionTransformer


@pytest.fixture
def smoke(smoke_home):
    return get_profile("smoke")


def test_the_best_come_first_and_are_the_model_s_own(smoke):
    rows, nano = load_manifest(smoke), fm.load("nano")
    query = rows.caption.iloc[3]
    hits = find([query], smoke, top=len(rows), progress=False)[0]
    cosines = nano.similarity(rows.path.to_list(), [query])[0]
    assert [hit.clip_id for hit in hits] == rows.clip_id.iloc[cosines.argsort(descending=True).numpy()].to_list()
    assert np.allclose([hit.score for hit in hits], cosines.sort(descending=True).values, atol=2e-4)
    assert all(hit.caption == rows.set_index("clip_id").caption[hit.clip_id] for hit in hits)


def test_a_clip_is_encoded_once(smoke, monkeypatch):
    find(["a star"], smoke, progress=False)
    monkeypatch.setattr(features, "_frames_job", lambda job: pytest.fail("a clip was decoded again"))
    find(["a ring"], smoke, progress=False)


def test_what_is_damaged_on_disk_is_made_again(smoke):
    encoder = encoder_for(smoke)
    _, whole = clip_features(smoke, encoder, progress=False)
    path = next((data_dir(smoke) / "features").iterdir())
    for damage in (b"", path.read_bytes()[:-9], bytes(100)):
        path.write_bytes(damage)
        assert torch.equal(clip_features(smoke, encoder, progress=False)[1], whole)


def test_a_file_that_is_another_is_refused(smoke):
    rows = load_manifest(smoke)
    shutil.rmtree(data_dir(smoke) / "features", ignore_errors=True)
    path = Path(rows.path.iloc[0])
    own = path.read_bytes()
    try:
        shutil.copy(rows.path.iloc[1], path)
        with pytest.raises(UserError, match="not the file in the manifest"):
            find(["a star"], smoke, progress=False)
    finally:
        path.write_bytes(own)


@pytest.mark.parametrize("asked, said", [([""], "Say what to look for"), ([], "Say what"), (["a", " "], "Say what")])
def test_nothing_to_look_for(smoke, asked, said):
    with pytest.raises(UserError, match=said):
        find(asked, smoke, progress=False)


def test_a_model_with_a_head_scores_through_it(smoke, tmp_path):
    bundle = fm.load("nano")
    torch.manual_seed(0)
    bundle.head, bundle.about = FusionTransformer(bundle.model.config.embed_dim).eval(), {"architecture": "fusion"}
    bundle.save_pretrained(tmp_path / "own")
    rows, query = load_manifest(smoke), "a red star"
    hits = find([query], smoke, model=tmp_path / "own", top=3, progress=False)[0]
    scores = bundle.similarity(rows.path.to_list(), [query])[0]
    assert [hit.clip_id for hit in hits] == rows.clip_id.iloc[scores.argsort(descending=True)[:3].numpy()].to_list()


def test_as_json_and_from_a_file(smoke, tmp_path, capsys):
    (tmp_path / "asked.txt").write_text("a blue ring\n\n a star\n")
    assert run_command(["find", "one", "--queries", str(tmp_path / "asked.txt"), "--data", "smoke", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [entry["query"] for entry in told] == ["one", "a blue ring", "a star"]
    assert {"rank", "score", "clip_id", "path", "start", "end"} <= told[0]["hits"][0].keys()


def test_a_page_has_its_pictures_inside_and_asks_nothing_of_others(smoke, tmp_path):
    found = find(["<script>alert(1)</script>"], smoke, top=2, progress=False)
    page = write_gallery(tmp_path / "page.html", ["<script>alert(1)</script>"], found, "smoke").read_text()
    assert page.count("data:image/jpeg;base64,") == 2
    assert "<script" not in page and "http" not in page and 'src="data:' in page


def test_a_model_that_never_saw_real_video_says_so(smoke):
    assert strange_to_model(smoke) == ""
    assert "never seen real video" in strange_to_model(get_profile("smoke", source="hub"))
    assert strange_to_model(get_profile("smoke", source="hub"), "weights/ViCLIP-L.pth") == ""


def test_interrupted_it_goes_on_where_it_stopped(smoke, monkeypatch):
    shutil.rmtree(data_dir(smoke) / "features", ignore_errors=True)
    encoder, job, seen = encoder_for(smoke), features._frames_job, []
    monkeypatch.setattr(features, "_CHUNK", 4)
    monkeypatch.setattr(features, "_SAVE_EVERY", 0.0)

    def stop_at_ten(of):
        seen.append(of[0])
        if len(seen) == 10:
            raise KeyboardInterrupt
        return job(of)

    monkeypatch.setattr(features, "_frames_job", stop_at_ten)
    with pytest.raises(KeyboardInterrupt):
        clip_features(smoke, encoder, progress=False)
    first = len(seen)
    rows, _ = clip_features(smoke, encoder, progress=False)
    assert len(seen) - first == len(rows) - 8  # two chunks of four were kept


PUSH = """
import frames_matter as fm
bundle = fm.load({folder!r})
bundle.push_to_hub("somebody/my-model", token={token!r})
back = fm.Bundle.from_pretrained("somebody/my-model", token={token!r})
assert type(back.head) is type(bundle.head) and back.card == bundle.card and back.about == bundle.about
for name, value in bundle.model.state_dict().items():
    assert value.equal(back.model.state_dict()[name])
"""


@pytest.fixture
def push(tmp_path):
    "Pushes a model and has it back, through huggingface_hub's own client, in a process that asks a hub on loopback."
    bundle = fm.load("nano")
    torch.manual_seed(0)
    bundle.head, bundle.about = FusionTransformer(bundle.model.config.embed_dim).eval(), {"architecture": "fusion"}
    bundle.save_pretrained(tmp_path / "own")

    def run(hub, token):
        told = PUSH.format(folder=str(tmp_path / "own"), token=token)
        environment = {**os.environ, **hub.env(tmp_path / "cache"), "FRAMES_MATTER_HOME": str(tmp_path)}
        return subprocess.run([sys.executable, "-c", told], env=environment, capture_output=True, text=True)

    return run


@pytest.mark.slow
def test_a_model_is_pushed_to_the_hub_and_comes_back(push):
    with serve_hub({}, token="hf_good") as hub:
        done = push(hub, "hf_good")
        names = {name.removeprefix("somebody/my-model/") for name in hub.files}
    assert done.returncode == 0, done.stderr
    assert hub.made == {"somebody/my-model"}
    assert names == {"model.safetensors", "head.safetensors", "config.json", "README.md"}


@pytest.mark.slow
def test_who_may_not_push_is_told(push):
    with serve_hub({}, token="hf_good") as hub:
        done = push(hub, "hf_other")
    assert done.returncode and "401" in done.stderr and not hub.files
