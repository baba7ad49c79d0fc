"""What benchmarks share: ratios are of medians of one run, and the page shows every stage that has a record."""

import json
import sys
from pathlib import Path

import pytest

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
