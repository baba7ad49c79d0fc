"Running lessons: what is refused, what a failure leaves behind, what it says."

import os

import nbformat
import pytest

from frames_matter.base.errors import UserError
from frames_matter.cli import run_command
from frames_matter.study.lessons import check_parameters, run_lessons


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path))
    return tmp_path


def notebook(path, *sources, parameters="profile = 'mini'\noverrides = {}"):
    cells = [nbformat.v4.new_code_cell(s) for s in (parameters, *sources)]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


def test_undeclared_parameter_is_refused(tmp_path):
    lesson = notebook(tmp_path / "01_a.ipynb", parameters="profile = 'mini'")
    with pytest.raises(UserError, match=r"declares no parameter 'overrides'; declared: profile"):
        check_parameters(lesson, ["profile", "overrides"])


def test_undeclared_parameter_is_refused_before_anything_runs(home):
    good = notebook(home / "01_a.ipynb", "open('ran', 'w')")
    bad = notebook(home / "02_b.ipynb", parameters="profile = 'mini'")
    with pytest.raises(UserError, match="02_b"):
        run_lessons("smoke", notebooks=[good, bad])
    assert not (home / "ran").exists()


def test_lessons_run_in_order_in_their_folder_with_the_parameters(home, capsys):
    (home / "nbs").mkdir()
    source = "open('log', 'a').write(f'{n} {profile} {overrides}\\n')"
    lessons = [notebook(home / "nbs" / f"0{n}_x.ipynb", f"n = {n}", source) for n in (1, 2)]
    done = run_lessons("smoke", {"k": 4}, notebooks=lessons)
    assert (home / "nbs" / "log").read_text() == "1 smoke {'k': 4}\n2 smoke {'k': 4}\n"
    assert done == [home / "results" / "smoke" / "notebooks" / f"0{n}_x.ipynb" for n in (1, 2)] and all(
        p.is_file() for p in done
    )
    out = capsys.readouterr().out
    assert "[1/2] 01_x done in" in out and "2 lessons in" in out
    assert os.environ["FRAMES_MATTER_HOME"] == str(home)


def test_files_are_named_from_the_folder_of_the_command(home, monkeypatch):
    "A lesson runs in its own."
    (home / "nbs").mkdir()
    (home / "w.pth").write_text("weights")
    monkeypatch.chdir(home)
    lesson = notebook(home / "nbs" / "01_x.ipynb", "open('log', 'w').write(overrides['weights'])")
    run_lessons("smoke", {"weights": "w.pth", "image_size": 32}, notebooks=[lesson])
    assert (home / "nbs" / "log").read_text() == str(home / "w.pth")
    with pytest.raises(UserError, match="No file at none.pth"):
        run_lessons("smoke", {"weights": "none.pth"}, notebooks=[lesson])


def test_first_failing_lesson_stops_the_run_in_one_line(home):
    lessons = [
        notebook(home / "01_a.ipynb"),
        notebook(home / "02_b.ipynb", "raise RuntimeError('two\\nlines')"),
        notebook(home / "03_c.ipynb", "open('ran', 'w')"),
    ]
    with pytest.raises(UserError) as e:
        run_lessons("smoke", notebooks=lessons)
    kept = home / "results" / "smoke" / "notebooks"
    assert str(e.value).startswith("Lesson 02_b failed with RuntimeError: two lines") and "\n" not in str(e.value)
    assert str(kept / "02_b.failed.ipynb") in str(e.value)
    assert sorted(p.name for p in kept.iterdir()) == ["01_a.ipynb", "02_b.failed.ipynb"]
    assert not (home / "ran").exists()


def test_a_success_replaces_an_older_failure(home):
    path = home / "01_a.ipynb"
    with pytest.raises(UserError):
        run_lessons("smoke", notebooks=[notebook(path, "1/0")])
    run_lessons("smoke", notebooks=[notebook(path, "1/1")])
    assert [p.name for p in (home / "results" / "smoke" / "notebooks").iterdir()] == ["01_a.ipynb"]


def test_killed_kernel_is_one_line(home):
    with pytest.raises(UserError, match="Lesson 01_a failed with DeadKernelError") as e:
        run_lessons(
            "smoke",
            notebooks=[notebook(home / "01_a.ipynb", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")],
        )
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "profile, overrides, said",
    [("maxi", {}, "smoke, mini, mini1000, internvid"), ("smoke", {"epoch": 1}, "epochs_first")],
)
def test_unknown_profile_or_field_lists_the_valid_ones(home, profile, overrides, said):
    with pytest.raises(UserError, match=said):
        run_lessons(profile, overrides, notebooks=[notebook(home / "01_a.ipynb")])


@pytest.mark.parametrize("full", [[], ["--full"]])
def test_a_machine_is_asked_once_whether_all_is_there(full, home, monkeypatch):
    "Before the laboratories, where they come first."
    done = []
    for name in ("labs.registry:run_laboratories", "labs.registry:report", "study.lessons:execute_lessons"):
        module, function = name.split(":")
        monkeypatch.setattr(f"frames_matter.{module}.{function}", lambda *_, f=function: done.append(f))
    monkeypatch.setattr("frames_matter.base.hub._download", lambda *_, **how: done.append(how))
    asked = ["-o", "weights=hub:a/b/c", "-o", "image_size=32"]
    assert run_command(["reproduce", "-p", "smoke", *asked, *full]) == 0
    assert done == [{"dry_run": True}, *["run_laboratories"] * len(full), "execute_lessons", "report"]
    run_lessons("smoke", {"weights": "hub:a/b/c", "image_size": 32}, notebooks=[notebook(home / "01_a.ipynb")])
    assert done[-2:] == [{"dry_run": True}, "execute_lessons"]
