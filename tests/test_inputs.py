"Whatever was written by somebody else is right, or one sentence; and a command that is refused changes nothing."

import json

import pytest

from frames_matter.base.errors import UserError
from frames_matter.base.files import atomic_write
from frames_matter.base.hub import parse_hub
from frames_matter.base.profiles import data_dir, get_profile, manifest_dir, register
from frames_matter.cli import run_command
from frames_matter.data.build import build_dataset, finished_build
from frames_matter.data.ledger import Ledger, read_states
from frames_matter.data.manifest import verify
from frames_matter.study.store import read_records, runs_path


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    "A home of its own for every test."
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def refused(capsys):
    "Run a command that is refused; the sentence it says."

    def run(*words):
        assert run_command(list(words)) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "Traceback" not in said and len(said) < 3000, said
        return said

    return run


RECORD = dict(
    spec=dict(phase="zero_shot", architecture="viclip", loss="infonce", sampling="uniform", protocol="sound", seed=0),
    spec_hash="0" * 16,
    run_by="x",
    metrics={"t2v_r1": 1.0},
    curves={"train_loss": [1.0]},
)
OTHERS = (
    ("spec", []),
    ("spec", {}),
    ("spec", RECORD["spec"] | {"seed": "a"}),
    ("spec", RECORD["spec"] | {"phase": ["zero_shot"]}),
    ("spec", RECORD["spec"] | {"k": "many"}),
    ("spec_hash", 7),
    ("metrics", None),
    ("metrics", {"t2v_r1": "high"}),
    ("metrics", {"t2v_r1": {}}),
    ("metrics", {"t2v_r1": True}),
    ("curves", [1]),
    ("curves", {"train_loss": "down"}),
    ("finished", 3),
    ("seconds", "long"),
    ("n_queries", -0.5),
)


@pytest.mark.parametrize(("field", "value"), OTHERS)
def test_records_of_other_types_are_one_sentence(field, value, refused):
    path = runs_path(get_profile("smoke"))
    atomic_write(path, json.dumps(RECORD) + "\n")
    assert read_records(path) == [RECORD]
    atomic_write(path, json.dumps(RECORD | {field: value}) + "\n")
    assert f"Line 1 of {path} is damaged" in refused("report", "-p", "smoke")


@pytest.mark.parametrize(
    "name", ["../../evil", "..", "/tmp/evil", "a/b", "a\\b", "a" * 41, "a\n", "a b", "é", "\udcff"]
)
def test_what_becomes_a_path_is_a_plain_name(name, home):
    for field in ("results", "name"):
        fields = {field: name} if field == "results" else {}
        with pytest.raises(UserError):
            get_profile("smoke", **fields) if fields else register(name)
    with pytest.raises(UserError):
        get_profile(name)
    register("films", like="smoke")
    record = home / "data_manifest" / "films" / "profile.json"
    atomic_write(record, json.dumps(dict(like="smoke", fields=dict(results=name))))
    with pytest.raises(UserError, match="is damaged"):
        get_profile("films")
    assert not list(home.parent.glob("evil*"))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "A home in which smoke is built."
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAMES_MATTER_HOME", str(folder))
        build_dataset(get_profile("smoke"), progress=False)
    return folder


def files_of(folder):
    "Every file below a folder but the ledger's own, and what is in it."
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and "ledger" not in p.name and p.suffix}


@pytest.mark.parametrize("field", ["n_clips=2", "max_seconds=3.0", "min_score=900"])
def test_a_refused_build_leaves_the_finished_one(field, built, monkeypatch, refused):
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(built))
    profile = get_profile("smoke")
    states = list(read_states(data_dir(profile) / "ledger.sqlite", "clip_id", "state", "sha256"))
    clips = {p.name: p.read_bytes() for p in (data_dir(profile) / "clips").iterdir()}
    manifest = files_of(manifest_dir(profile))
    refused("dataset", "build", "-p", "smoke", "-o", field, "-o", "patience=0", "-o", "n_pool=0")
    assert files_of(manifest_dir(profile)) == manifest
    assert {p.name: p.read_bytes() for p in (data_dir(profile) / "clips").iterdir()} == clips
    assert list(read_states(data_dir(profile) / "ledger.sqlite", "clip_id", "state", "sha256")) == states
    assert verify(profile) == [] and finished_build(profile) is not None


def test_a_build_that_is_killed_leaves_the_finished_one_to_be_had_again(built, monkeypatch):
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(built))
    profile = get_profile("smoke")
    with Ledger(data_dir(profile) / "ledger.sqlite") as ledger:
        was = ledger.fact("identity")
        ledger.begin("another", data_dir(profile) / "clips")  # and no more
    assert verify(profile)
    with Ledger(data_dir(profile) / "ledger.sqlite") as ledger:
        assert not ledger.begin(was, data_dir(profile) / "clips")
    build_dataset(profile, progress=False, again=True)
    assert verify(profile) == [] and finished_build(profile) is not None


def test_a_refused_registration_is_none(home, refused):
    register("films", like="smoke", source="own", rows="films.csv")
    before = (home / "data_manifest" / "films" / "profile.json").read_bytes()
    refused("dataset", "build", "--from", "nowhere", "--name", "films")
    refused("dataset", "build", "--from", "nowhere", "--name", "others")
    assert (home / "data_manifest" / "films" / "profile.json").read_bytes() == before
    assert not (home / "data_manifest" / "others").exists()


def test_a_manifest_without_addresses_is_refused_before_a_world_is_made(home, refused):
    row = "a,abcdefghijk,0,3,A ball.,train,kept"
    (home / "clips.csv").write_text(f"clip_id,youtube_id,start,end,caption,split,status\n{row}\n")
    said = refused("dataset", "build", "--from-manifest", str(home / "clips.csv"), "--name", "again", "--like", "smoke")
    assert "url_template" in said and not list(home.rglob("*.mp4")) and not list(home.rglob("profile.json"))


@pytest.mark.parametrize("source", ["hub:a/b/../c", "hub:a/b/c@../../d", "hub:a/./c", "hub:a/b/c\x00", "hub:a/b"])
def test_hub_names_lead_nowhere_else(source):
    with pytest.raises(UserError, match="names no file of the hub"):
        parse_hub(source)
