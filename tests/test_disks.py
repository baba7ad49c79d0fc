"What a disk refuses is one sentence that says what to do, and no advice to delete what is whole."

import contextlib
import errno
import io
import os
import sqlite3
from pathlib import Path

import pytest

from frames_matter.base import files
from frames_matter.base.errors import UserError
from frames_matter.base.files import (
    atomic_path,
    atomic_write,
    disk_error,
    link_folder,
    os_error,
    project_root,
    put_folder_back,
)
from frames_matter.base.hub import hub_file, parse_hub
from frames_matter.base.profiles import register
from frames_matter.cli import CHECKS, run_command
from frames_matter.data.cut import why_not_cut
from frames_matter.data.export import _replace_folder
from frames_matter.data.ledger import Ledger

ADVICE = {
    errno.ENOSPC: "free some",
    errno.EDQUOT: "free some",
    errno.EROFS: "make it writable",
    errno.EACCES: "No permission",
    errno.EPERM: "No permission",
    errno.ENAMETOOLONG: "give a shorter one",
    errno.ENOTDIR: "move that file",
    errno.EISDIR: "a folder where a file should be",
    errno.EEXIST: "a file where a folder should be",
    errno.EIO: "see to the disk",
    errno.ENODEV: "connect it again",
    errno.ESTALE: "mount it again",
    errno.ELOOP: "leads back to itself",
    errno.EMFILE: "ulimit -n",
}


def assert_sentence(text, *said):
    assert text.isprintable() and text.endswith(".") and len(text) < 600, text
    assert all(part in text for part in said), text


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("code", ADVICE)
def test_each_number_has_its_sentence(code, home, monkeypatch, capsys):
    "Of the error itself, while a file is written, and at the end of a command."
    error = OSError(code, os.strerror(code))
    assert_sentence(str(os_error(error, "my/place")), "my/place", ADVICE[code])

    def refuse(*_):
        raise error

    monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(UserError) as e:
        atomic_write(home / "a.txt", "text")
    assert_sentence(str(e.value), "a.txt", ADVICE[code])
    assert not list(home.iterdir())  # no half of a file
    monkeypatch.setattr("frames_matter.labs.registry.report", refuse)
    assert run_command(["report", "--profile", "smoke"]) == 2
    said = capsys.readouterr().err
    assert_sentence(said.strip(), ADVICE[code])


def test_an_error_of_something_else_is_left_alone():
    assert os_error(ConnectionResetError(errno.ECONNRESET, "reset")) is None and os_error(OSError("odd")) is None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_other_programs_words_of_the_disk(code, tmp_path):
    "ffmpeg says it in words, a library in its error: no row is to blame."
    assert_sentence(str(disk_error("there", f"av_write_frame(): {os.strerror(code)}\n")), "there")
    assert_sentence(str(disk_error("there", errors=[ValueError("x"), OSError(code, "y")])), "there")
    told = why_not_cut(f"out.mp4: {os.strerror(code)}", tmp_path / "b.mp4")
    assert type(told) is UserError and str(tmp_path) in str(told)
    assert disk_error(tmp_path, "Invalid data found when processing input", [ValueError()]) is None
    assert not list(tmp_path.iterdir())


def test_a_disk_that_takes_nothing_is_found_out(tmp_path, monkeypatch):
    "Whatever a program said: a small file is tried."
    assert_sentence(str(disk_error(tmp_path / "gone", "Conversion failed!")), "gone", "look whether its disk is still")
    monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "no")))
    assert_sentence(str(disk_error(tmp_path, "Conversion failed!")), str(tmp_path), "see to the disk")


BLOCKED = ["data", "data_manifest", "results", "data_manifest/mine"]


@pytest.mark.parametrize("name", BLOCKED)
def test_a_file_where_a_folder_should_be(name, home):
    (home / name).parent.mkdir(exist_ok=True)
    (home / name).write_text("mine")
    for place in (home / name / "a.txt", home / name / "deep" / "a.txt"):
        with pytest.raises(UserError) as e:
            atomic_write(place, "text")
        assert_sentence(str(e.value), name)
    assert (home / name).read_text() == "mine"


@pytest.mark.parametrize("name", BLOCKED[:3])
def test_commands_say_which_file_is_in_the_way(name, home, capsys):
    (home / name).write_text("mine")
    command = ["report"] if name == "results" else ["dataset", "build"]
    assert run_command([*command, "-p", "smoke"]) == 2
    assert_sentence(capsys.readouterr().err.strip(), name)
    assert (home / name).read_text() == "mine"


def told_by_doctor(home, monkeypatch, name="folder"):
    "The exit code of doctor, and the line of one of its checks."
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(home))
    monkeypatch.setattr("frames_matter.cli.CHECKS", {n: CHECKS[n] for n in ("disk", "folder")})
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = run_command(["doctor"])
    return code, next(line for line in out.getvalue().splitlines() if line[4:].startswith(name))


@pytest.mark.parametrize("deep", ["new", "new/deep/home"])
def test_doctor_tells_of_a_home_that_will_be_made(deep, home, monkeypatch):
    assert told_by_doctor(home / deep, monkeypatch) == (0, f"ok  folder  {home / deep} will be made")
    code, line = told_by_doctor(home / deep, monkeypatch, "disk")
    assert code == 0 and line.endswith(f" GB free in {home}") and not list(home.iterdir())
    (home / deep).mkdir(parents=True)
    assert told_by_doctor(home / deep, monkeypatch) == (0, f"ok  folder  {home / deep}")
    assert not list((home / deep).iterdir())


@pytest.mark.parametrize("name", [*BLOCKED[:3], ""])
def test_doctor_tells_of_a_file_where_a_folder_should_be(name, home, monkeypatch):
    (home / "mine" / name).parent.mkdir(exist_ok=True)
    (home / "mine" / name).write_text("mine")
    code, line = told_by_doctor(home / "mine", monkeypatch)
    assert code == 1 and line.startswith(f"FIX folder  {home / 'mine'} cannot be written: {home / 'mine' / name}")
    assert_sentence(line, "a file", "a folder", "move", "FRAMES_MATTER_HOME")
    assert [p.name for p in home.rglob("*") if p.is_file()] == [name or "mine"] and not (home / "mine").is_symlink()


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("step", ["mkdir", "write_bytes"])
def test_doctor_tells_of_a_home_that_cannot_be_written(code, step, home, monkeypatch):
    "Whether the folder or a file in it is refused; nothing stays."
    monkeypatch.setattr(Path, step, lambda path, *_, **__: (_ for _ in ()).throw(OSError(code, "no", str(path))))
    ended, line = told_by_doctor(home, monkeypatch)
    assert ended == 1 and line.startswith(f"FIX folder  {home} cannot be written: ")
    assert_sentence(line, ADVICE[code], "FRAMES_MATTER_HOME")
    assert not list(home.iterdir())


@pytest.mark.parametrize("make", [lambda p: p.mkdir(), lambda p: p.symlink_to(p), lambda p: p.write_bytes(b"\xff\0")])
@pytest.mark.parametrize("name", ["results/smoke/runs.jsonl", "data_manifest/smoke/clips.csv", "data/checkout_id"])
def test_what_is_no_file_is_told(name, make, home, capsys):
    (home / name).parent.mkdir(parents=True)
    make(home / name)
    for command in ("report", "dataset verify", "dataset export --to out"):
        assert run_command([*command.split(), "-p", "smoke"]) == 2
        assert_sentence(capsys.readouterr().err.strip())


def test_names_too_long(home):
    for place in (home / ("n" * 300), home / ("n" * 300) / "a", home.joinpath(*["d" * 200] * 40) / "a"):
        with pytest.raises(UserError, match="too long"):
            atomic_write(place, "text")
    with pytest.raises(UserError, match="cannot be a profile's name"):
        register("n" * 300)
    with pytest.raises(UserError, match="names no file of the hub"):
        parse_hub("hub:a/b/" + "n" * 300)


LONG_HOME = {  # how a home is too long: in one name, in all of them, below a folder that is there
    "name": lambda folder: folder / ("n" * 300),
    "path": lambda folder: folder.joinpath(*["d" * 200] * 40),
    "below": lambda folder: folder / "there" / ("n" * 300),
}


@pytest.mark.parametrize("how", LONG_HOME)
@pytest.mark.parametrize(
    "command", ["dataset build", "dataset select", "dataset verify", "dataset export --to out", "report", "reproduce"]
)
def test_a_home_that_is_too_long_is_named(command, how, tmp_path, monkeypatch, capsys):
    (tmp_path / "there").mkdir()
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(LONG_HOME[how](tmp_path)))
    assert run_command([*command.split(), "-p", "smoke"]) == 2
    said = capsys.readouterr().err.strip()
    assert "is too long for this disk; give a shorter one (FRAMES_MATTER_HOME is " in said
    assert_sentence(said)


def test_a_vanished_folder(tmp_path):
    "While something is written into it."
    with pytest.raises(UserError) as e, atomic_path(tmp_path / "gone" / "a.txt") as partial:
        partial.parent.rename(tmp_path / "elsewhere")
        partial.write_text("text")
    assert_sentence(str(e.value), "gone", "look whether its disk is still there")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a system without /proc, where nothing can be made")
def test_a_folder_that_cannot_be_made(home, monkeypatch):
    "Is not looked for on a disk that is gone; a home that is to blame is named by what says so."
    for place in ("/proc/new", "/proc/new/deep", "/proc/self/new/deep"):
        for make in (lambda p: atomic_write(p / "a.txt", "text"), Ledger, lambda p: _replace_folder(p, print)):
            with pytest.raises(UserError) as e:
                make(Path(place) / "ledger.sqlite")
            assert_sentence(str(e.value), "cannot be made", "takes no new folders", "give another place")
            assert "HOME" not in str(e.value) and ".partial" not in str(e.value)
        with monkeypatch.context() as patch, pytest.raises(UserError) as e:
            patch.setenv("FRAMES_MATTER_HOME", place)
            atomic_write(project_root() / "data" / "a.txt", "text")
        assert_sentence(str(e.value), "cannot be made", f"(FRAMES_MATTER_HOME is {place}).")


@pytest.mark.parametrize("deep", ["mine", "mine/deep"])
def test_a_home_that_is_a_file_is_named(deep, home, monkeypatch, capsys):
    (home / "mine").write_text("mine")
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(home / deep))
    for command in ("dataset build -p smoke", "dataset select -p smoke", "reproduce -p smoke"):
        assert run_command(command.split()) == 2
        assert_sentence(capsys.readouterr().err.strip(), "as if it were a folder", f"HOME is {home / deep}).")


SQLITE = {
    "database or disk is full": "free some",
    "attempt to write a readonly database": "writable",
    "disk I/O error": "see to the disk",
    "unable to open database file": "writable",
    "database is locked": "another program",
}


@pytest.mark.parametrize("said", SQLITE)
def test_a_ledger_is_not_to_be_deleted_for_a_disk(said, tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        with pytest.raises(UserError) as e, ledger.transaction():
            raise sqlite3.OperationalError(said)
        assert_sentence(str(e.value), SQLITE[said])
        assert "delete" not in str(e.value)
        with pytest.raises(UserError, match="delete it"), ledger.transaction():
            raise sqlite3.DatabaseError("database disk image is malformed")


def test_a_full_disk_says_so_for_real(tmp_path):
    "A ledger that may not grow any more is what SQLite calls a full disk."
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        with ledger.transaction() as db:
            pages = db.execute("PRAGMA page_count").fetchone()[0]
        ledger.query(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(UserError, match="No space left .* free some") as e:
            for i in range(10_000):
                ledger.set_fact(f"name {i}", "value" * 1000)
        assert "delete" not in str(e.value)


def test_the_hub_tells_of_the_disk(monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(UserError) as e:
        hub_file("owner/repository", "a.bin")
    assert_sentence(str(e.value), "can only be read")


def test_a_folder_is_kept_and_had_again(tmp_path, monkeypatch):
    "Also where the disk knows no links."
    folder, kept = tmp_path / "clips", tmp_path / "clips.before"
    for can_link in (True, False):
        if not can_link:
            monkeypatch.setattr(files.os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
        atomic_write(folder / "deep" / "a", "first")
        link_folder(folder, kept)
        atomic_write(folder / "deep" / "a", "second")
        (folder / "b").write_text("new")
        put_folder_back(kept, folder)
        assert [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*"))] == ["deep", "deep/a"]
        assert (folder / "deep" / "a").read_text() == "first" and not kept.exists()
    link_folder(tmp_path / "absent", kept)
    put_folder_back(kept, folder)
    assert (folder / "deep" / "a").read_text() == "first"
