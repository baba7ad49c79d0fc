"""What benchmarks share: ratios are of medians of one run, and the page shows every stage that has a record."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from frames_matter.base.errors import UserError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))
measure = pytest.importorskip("_measure", reason="benchmarks are in the repository alone")


def test_ways_are_measured_in_turns():
    order = []
    times = measure.in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 3 and {name: len(of) for name, of in times.items()} == {"a": 3, "b": 3}


def test_ratios_are_of_medians():
    of = measure.stage("s", {measure.OURS: [1.0, 2.0, 9.0], "peer": [4.0, 5.0, 6.0]}, {"least": [0.5]})
    assert of["ways"]["peer"] == {"seconds": 5.0, "fastest": 4.0, "slowest": 6.0, "times_ours": 2.5}
    assert of["ways"][measure.OURS]["times_ours"] == 1 and of["limit"]["least"]["times_ours"] == 0.25
    assert "limit" not in measure.stage("s", {measure.OURS: [1.0]})


def test_the_page_shows_what_was_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "FOLDER", tmp_path)
    (tmp_path / "fuzz.json").write_text("{}")  # one that measures no time
    stages = [measure.stage("reading", {measure.OURS: [0.010], "peer": [0.025]}, {"least": [0.004]})]
    measure.write_record("made", "in the test", stages, ("numpy",), 0.5, found=3)
    record = json.loads((tmp_path / "made.json").read_text())
    assert record["found"] == 3 and record["load"]["before"] == 0.5 and json.loads(capsys.readouterr().out) == record
    page = (tmp_path / "README.md").read_text()
    assert "| reading | 10 ms | 10 ms to 10 ms | peer 2.5 | least 0.4 |" in page
    assert "`frames-matter bench made`: in the test." in page and (tmp_path / "times.svg").read_text().startswith(
        "<?xml"
    )
    (tmp_path / "README.md").unlink()
    measure.write_record("other", "kept nowhere", stages, (), 0.0, keep=False)
    assert not (tmp_path / "other.json").exists() and not (tmp_path / "README.md").exists()


def test_the_page_tells_how_steps_grow_and_what_else_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "FOLDER", tmp_path)
    rows = [{"n": n, "seconds": n / 1000, "added_gb": 0.0} for n in (100, 2000)]
    step = {"step": "reading", "of": "clips", "rows": rows, "mathematics": 1, "exponent": 1.0}
    timed = [measure.stage("reading", {measure.OURS: [1.0]})]
    measure.write_record("growth", "made", timed, (), 0.0, growth=[step], figures={"growth.svg": "Seconds"})
    page = (tmp_path / "README.md").read_text()
    assert (
        "| reading | 100 / 2,000 clips | 0.1 / 2 | 0 / 0 | 1.00, – | 1 |" in page and "![Seconds](growth.svg)" in page
    )
    assert "- `frames-matter bench fuzz`: Inputs of every kind" in page and "bench decode`" not in page


def test_a_process_of_its_own_gives_what_it_prints(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint('said before')\nprint([int(sys.argv[1])] if sys.argv[1] != 'x' else 1 / 0)\n")
    assert measure.in_own_process(str(script), 7) == [7]
    with pytest.raises(UserError, match="script.py x failed: .*ZeroDivisionError"):
        measure.in_own_process(str(script), "x")


def test_a_peak_is_the_process_s_own(tmp_path):
    "Not that of the parent, which a new process's rusage begins with."
    script = tmp_path / "script.py"
    script.write_text("import sys\nsys.path.insert(0, sys.argv[1])\nimport _measure\nprint(_measure.peak_gb())\n")
    before, held = measure.peak_gb(), b"x" * 400_000_000
    with_it = measure.peak_gb()
    assert with_it > 0.39 and with_it >= before and len(held) == 400_000_000
    assert 0.01 < measure.in_own_process(str(script), measure.SCRIPTS) < 0.35


def test_a_command_is_watched(tmp_path):
    costs, printed = measure.watched([sys.executable, "-c", "print('done')"], cwd=tmp_path)
    assert printed == "done\n" and costs["seconds"] > 0 and costs["peak_gb"] > 0
    ends_in_three = [sys.executable, "-c", "raise SystemExit(3)"]
    assert measure.watched(ends_in_three, fine=(0, 3))[1] == ""
    with pytest.raises(UserError, match="failed"):
        measure.watched(ends_in_three)


def test_the_original_s_form_gives_the_same_features(monkeypatch):
    "What the model is timed beside is the same model; and with other weights it is not."
    model = importlib.import_module("model")
    assert 0 < model.assert_alike("nano") < 1e-4
    made = model.tower_of

    def of_other_weights(size, way):
        tower = made(size, way)
        tower.proj.data *= 1.01 if way == model.ORIGINAL else 1
        return tower

    monkeypatch.setattr(model, "tower_of", of_other_weights)
    with pytest.raises(UserError, match="nothing to compare"):
        model.assert_alike("nano")


def test_a_slope_is_that_of_the_largest_sizes():
    growth = importlib.import_module("growth")
    rows = [{"n": n, "seconds": 1 + (n / 100) ** 2 / 1e6} for n in (10, 10**6, 10**7)]
    assert growth.slope(rows, "seconds") == pytest.approx(2, abs=0.02)
    assert growth.slope([{"n": 1, "seconds": 0.0}, {"n": 2, "seconds": 1.0}], "seconds") is None


def test_seconds_of_lessons_and_of_own_runs(tmp_path, capsys, monkeypatch):
    "The line is the one that lessons print; runs that came with the clone are none of its own."
    reproduce, lessons = importlib.import_module("reproduce"), importlib.import_module("frames_matter.study.lessons")
    monkeypatch.setattr(lessons, "run_lesson", lambda *of: tmp_path)
    lessons._tell_and_run("[2/5] 02_baseline", "made", tmp_path, {}, progress=True)
    assert [name for name, _ in reproduce.LESSON.findall(capsys.readouterr().out)] == ["02_baseline"]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "checkout_id").write_text("0" * 12)
    runs = [("0" * 12, "audit", 2.0), ("0" * 12, "audit", 3.5), ("1" * 12, "audit", 9.0), ("0" * 12, "zero_shot", 1.0)]
    lines = [json.dumps({"run_by": by, "spec": {"phase": phase}, "seconds": s}) for by, phase, s in runs]
    (tmp_path / "results" / "mini").mkdir(parents=True)
    (tmp_path / "results" / "mini" / "runs.jsonl").write_text("\n".join(lines) + "\n")
    assert reproduce.seconds_of_runs(tmp_path, "mini") == {"audit": 5.5, "zero_shot": 1.0}
