"A command that is refused changes nothing: not the clips, not the manifest, not what a name stands for."

import shutil

import ffmpeg
import pytest

from frames_matter.base.errors import UserError
from frames_matter.base.ffmpeg import find_ffmpeg
from frames_matter.base.files import atomic_write
from frames_matter.base.profiles import get_profile, manifest_dir, registered, registered_unless_refused
from frames_matter.cli import run_command
from frames_matter.data.build import build_dataset
from frames_matter.data.ledger import Ledger
from frames_matter.data.manifest import load_manifest, verify
from frames_matter.data.sources import OwnClips
from frames_matter.world import films as world_films

NAMES = ["dog", "boat", "rain", "snow", "wind", "hail"]


def make_film(path, size, seconds):
    "A film with sound."
    picture = ffmpeg.input(f"testsrc2=s={size}:r=8:d={seconds}", f="lavfi")
    sound = ffmpeg.input(f"sine=440:d={seconds}", f="lavfi")
    made = ffmpeg.output(picture, sound, str(path), vcodec="libx264", preset="ultrafast", pix_fmt="yuv420p", threads=1)
    made.global_args("-v", "error", "-nostdin").run(cmd=find_ffmpeg())


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "A finished data set of six films, called my."
    place = tmp_path_factory.mktemp("built")
    (place / "films").mkdir()
    for i, name in enumerate(NAMES):
        make_film(place / "films" / f"{name}.mp4", f"64x{48 + 2 * i}", 4)
        (place / "films" / f"{name}.txt").write_text(f"There is {name} in it.")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAMES_MATTER_HOME", str(place / "home"))
        patch.chdir(place)
        assert run_command(["dataset", "build", "--from", "films", "--name", "my", "--like", "smoke"]) == 0
    return place


@pytest.fixture
def place(built, tmp_path, monkeypatch):
    "The same, for this test alone."
    shutil.copytree(built, tmp_path / "place")
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path / "place" / "home"))
    monkeypatch.chdir(tmp_path / "place")
    record = tmp_path / "place" / "home" / "data_manifest" / "my" / "profile.json"
    record.write_text(record.read_text().replace(str(built), str(tmp_path / "place")))
    return tmp_path / "place"


def content_of(home):
    "Everything there but the ledger, whose pages move, and films that were fetched for other rows."
    files = (p for p in home.rglob("*") if p.is_file() and "ledger.sqlite" not in p.name and p.name != ".lock")
    return {p.relative_to(home).as_posix(): p.read_bytes() for p in files if p.parent.name != "sources"}


REFUSED = [
    "-o n_clips=2",
    "-o n_clips=1 -o seed=5",
    "-o n_clips=0",
    "-o n_clips=-3",
    "-o n_clips=1000000000000000000",
    "-o seeds=0",
    "-o results=../../evil",
    "-o min_seconds=9",
    "-o max_seconds=1 -o min_seconds=0",
    "-o audio=true -o min_seconds=9",
    "-o audio=true -o max_seconds=3 -o min_seconds=2",
    "-o source=hub",
    "-o source=manifest -o rows=nothing.csv",
    "-o source=world -o n_clips=3 -o n_pool=0 -o min_score=900",
    "-o url_template=none",
    "-o engine=spark",
    "-o name=other",
    "-o k=0 -o audio=true",
]


@pytest.mark.parametrize("overrides", REFUSED)
def test_a_refused_build_leaves_the_finished_one(overrides, place, capsys):
    "Also where the originals have moved since, so that nothing could be made again."
    before = content_of(place / "home")
    assert run_command(["dataset", "build", "-p", "my", *overrides.split()]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert content_of(place / "home") == before
    (place / "films").rename(place / "moved")
    assert verify(get_profile("my")) == []
    assert len(build_dataset(get_profile("my"))) == len(NAMES)
    assert not (place.parent / "evil").exists() and not (place.parent.parent / "evil").exists()


def test_a_build_that_breaks_off_late_leaves_the_finished_one(place, monkeypatch):
    "Clips of other settings have replaced those of before when it is refused."

    def refuse(*_):
        raise UserError("Too few.")

    before = content_of(place / "home")
    monkeypatch.setattr("frames_matter.data.build._assert_enough", refuse)
    with pytest.raises(UserError, match="Too few"):
        build_dataset(get_profile("my", audio=True), progress=False)
    assert content_of(place / "home") == before and verify(get_profile("my")) == []


def test_a_build_that_was_killed_gives_way_to_the_finished_one(place, monkeypatch):
    "The next build of the settings of before finds its clips as they were."

    def kill(*_):
        raise KeyboardInterrupt

    before = content_of(place / "home")
    with monkeypatch.context() as patch:
        patch.setattr("frames_matter.data.build._assert_enough", kill)
        with pytest.raises(KeyboardInterrupt):
            build_dataset(get_profile("my", audio=True), progress=False)
    build_dataset(get_profile("my"), progress=False)
    clips = {name: content for name, content in before.items() if name.endswith(".mp4")}
    assert len(clips) == len(NAMES) and clips.items() <= content_of(place / "home").items()
    assert verify(get_profile("my")) == []


def test_builds_that_were_killed_one_after_another_keep_their_own_clips(tmp_path):
    "Where none is finished nothing is put back; where one is, it comes back whole."
    clip = tmp_path / "clips" / "a.mp4"

    def begin_and_be_killed(identity, content=None):
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            ledger.begin(identity, clip.parent)
            found = clip.read_text() if clip.is_file() else ""
            if content:
                atomic_write(clip, content)
            return found

    assert begin_and_be_killed("one", "of one") == ""
    begin_and_be_killed("two", "of two")
    assert begin_and_be_killed("two") == "of two"
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.set_fact("manifest", "finished")
        ledger.forget_set_aside()
    assert begin_and_be_killed("three", "of three") == "of two"
    assert begin_and_be_killed("three") == "of three"
    assert begin_and_be_killed("four", "of four") == "of two"
    assert begin_and_be_killed("two") == "of two"
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.fact("manifest") == "finished" and ledger.fact("identity") == "two"


def test_an_accepted_build_replaces_the_finished_one(place):
    "And keeps nothing of it."
    rows = build_dataset(get_profile("my", n_clips=4), progress=False)
    assert (rows.status == "kept").sum() == 4 and verify(get_profile("my")) == []
    clips = place / "home" / "data" / "my"
    assert len(list((clips / "clips").glob("*.mp4"))) == 4
    assert not list(clips.glob("*.before"))


def test_a_film_whose_disk_comes_again_is_had_then(place, monkeypatch):
    "It was there when the rows were read, and not when its turn came: no verdict for good."
    film, away = place / "films" / "hail.mp4", place / "hail.mp4"
    read = OwnClips.given_rows

    def read_and_take_away(source, profile):
        rows = read(source, profile)
        film.rename(away)
        return rows

    profile = get_profile("my", n_clips=60, audio=True)
    with monkeypatch.context() as patch:
        patch.setattr(OwnClips, "given_rows", read_and_take_away)
        rows = build_dataset(profile, progress=False)
    assert (rows.status == "kept").sum() == 5 and "not there any more" in rows.reason[rows.status == "rejected"].item()
    away.rename(film)
    assert (build_dataset(profile, progress=False, again=True).status == "kept").all()


def test_what_was_being_registered_is_forgotten(place, capsys):
    "A new name, and a name that stood for something else before."
    before = content_of(place / "home")
    for line in (
        "--from films --name new --like smoke -o n_clips=2",
        "--from films --name new --like smoke -o seeds=0",
        "--from films --name my --like smoke -o min_seconds=9",
        "--from films --name my --like smoke -o k=0",
        "--from-manifest home/data_manifest/my/clips.csv --name again -o results=../x",
    ):
        assert run_command(["dataset", "build", *line.split()]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert content_of(place / "home") == before and registered() == ["my"]
    assert not (place / "home" / "data_manifest" / "new").exists()


def test_registrations_stay_where_nothing_is_refused(place):
    from frames_matter.base.profiles import register

    with registered_unless_refused():
        register("kept", k=4)
    with pytest.raises(UserError), registered_unless_refused():
        register("kept", k=2)
        raise UserError("No.")
    assert get_profile("kept").k == 4


def test_a_manifest_without_films_is_told_before_films_are_made(place, monkeypatch, capsys):
    "Its rows have no addresses, and are none of the mini world's."

    def make_world(*_, **__):
        raise AssertionError("a world was made for nothing")

    table = manifest_dir(get_profile("my")) / "clips.csv"
    rows = load_manifest(table).drop(columns=["address", "path"], errors="ignore")
    rows.to_csv(place / "theirs.csv", index=False)
    monkeypatch.setattr(world_films, "make_world", make_world)
    assert run_command(["dataset", "build", "--from-manifest", "theirs.csv", "--name", "again", "--like", "mini"]) == 2
    assert "url_template" in capsys.readouterr().err and registered() == ["my"]
