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
from frames_matter.clips.find import Finder, find, write_gallery
from frames_matter.clips.nearest import build_index, rank_by_index, rank_exactly
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


@pytest.mark.parametrize("given", ["films/", "./films", "films"])
def test_a_folder_of_films_however_it_is_written(smoke, given, tmp_path, monkeypatch, capsys):
    rows = load_manifest(smoke).iloc[:5]
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "films"
    folder.mkdir()
    for row in rows.itertuples():
        shutil.copy(row.path, folder)
        (folder / f"{row.clip_id}.txt").write_text(row.caption)
    for _ in range(2):  # built, and then known by the folder's name
        assert run_command(["find", "a star", "--data", given, "--json"]) == 0
        assert len(json.loads(capsys.readouterr().out)[0]["hits"]) == 5


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


def like_clips(n, seed=0):
    "Vectors as a model gives them: many of a kind, each a little different."
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randn(50, 64, generator=generator)
    which = torch.randint(50, (n,), generator=generator)
    return kinds[which] + 0.5 * torch.randn(n, 64, generator=generator)


def cosine(video, text):
    return torch.nn.functional.normalize(text, dim=-1) @ torch.nn.functional.normalize(video, dim=-1).T


def test_in_parts_it_is_what_it_is_at_once(monkeypatch):
    video, text = like_clips(1000), like_clips(4, seed=1)
    video[700:] = video[:300]  # equals, in other parts
    ordered = cosine(video, text).sort(dim=1, descending=True, stable=True)
    monkeypatch.setattr("frames_matter.clips.nearest._BLOCK", 64)
    found = rank_exactly(cosine, video, text, 20)
    assert [places for _, places in found] == ordered.indices[:, :20].tolist()
    assert [len(places) for _, places in rank_exactly(cosine, video, text, 5000)] == [1000] * 4


@pytest.fixture
def indexed(tmp_path):
    pytest.importorskip("lancedb", reason="the extra `search` is not installed")
    video = like_clips(5000)
    return video, build_index(video, tmp_path / "features.safetensors")


def test_an_index_finds_what_the_product_finds(indexed):
    video, folder = indexed
    text = like_clips(50, seed=1)
    found, exact = rank_by_index(folder, text, 10), rank_exactly(cosine, video, text, 10)
    shared = sum(len({*ours} & {*truth}) for (_, ours), (_, truth) in zip(found, exact, strict=True))
    assert shared >= 0.95 * 10 * len(text)
    assert all(scores == sorted(scores, reverse=True) for scores, _ in found)
    assert all(abs(cosine(video[[at]], text[[0]]).item() - score) < 1e-5 for score, at in zip(*found[0], strict=True))


def test_an_index_is_kept_and_made_anew_of_other_features(indexed, tmp_path):
    video, folder = indexed
    (folder / "seen").touch()
    assert build_index(video, tmp_path / "features.safetensors") == folder and (folder / "seen").is_file()
    (tmp_path / f"{folder.name}.part").mkdir()  # of a build that was killed
    other = build_index(video + 1, tmp_path / "features.safetensors")
    assert other != folder and [path.name for path in tmp_path.glob("*.lancedb*")] == [other.name]


def test_a_search_through_an_index_says_the_same(smoke):
    pytest.importorskip("lancedb", reason="the extra `search` is not installed")
    exact, by_index = Finder(smoke, progress=False), Finder(smoke, exact=False, progress=False)
    assert [hit.clip_id for hit in by_index(["a red star"], 5)[0]] == [
        hit.clip_id for hit in exact(["a red star"], 5)[0]
    ]


def test_without_the_extra_it_says_what_to_do(smoke, monkeypatch):
    monkeypatch.setitem(sys.modules, "lancedb", None)
    assert find(["a star"], smoke, top=1, progress=False)[0]
    with pytest.raises(UserError, match=r"frames_matter\[search\].*--exact"):
        find(["a star"], smoke, exact=False, progress=False)


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
    assert "with this token; give `token=` one of yours" in done.stderr


@pytest.mark.parametrize(
    "variables, sentence",
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "check the network and push again."),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set; unset it and push again."),
    ],
)
def test_a_push_without_a_hub_is_one_sentence(tmp_path, variables, sentence):
    told = "import frames_matter as fm; fm.load('nano').push_to_hub('somebody/my-model', token='hf_x')"
    environment = {**os.environ, "HF_HOME": str(tmp_path), **variables}
    done = subprocess.run([sys.executable, "-c", told], env=environment, capture_output=True, text=True)
    *_, last = done.stderr.strip().splitlines()
    assert done.returncode and "UserError" in last and last.endswith(sentence), done.stderr


def test_a_push_to_what_is_no_name():
    with pytest.raises(UserError, match="no repository's name; write owner/repository"):
        fm.load("nano").push_to_hub("some/body/my-model", token="hf_x")
