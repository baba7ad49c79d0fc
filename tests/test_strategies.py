"""A strategy is registered once: one of one's own shows in grid, tables, figures and frame laboratory by itself, and a
strategy that nobody registered loses no row of the record."""

import json
import os
import subprocess
import sys

import pytest

from frames_matter.base.profiles import get_profile
from frames_matter.report.reader import load_runs
from frames_matter.report.tables import table_comparisons, table_sampling
from frames_matter.video.sampling import SAMPLERS

SEVENTH = """
import json

import numpy as np

from frames_matter.base.profiles import get_profile
from frames_matter.labs.frames import FRAMES, plot_frames, show_frames, table_frames
from frames_matter.labs.registry import run_laboratories
from frames_matter.report.figures import contact_sheet, plot_answer, plot_curves
from frames_matter.data.manifest import load_manifest
from frames_matter.report.reader import load_runs
from frames_matter.report.style import narrow
from frames_matter.report.tables import table_comparisons, table_sampling
from frames_matter.study.grid import grid
from frames_matter.study.runner import run_all
from frames_matter.video.sampling import SAMPLERS, Strategy


def last_eight(n, k, rng):
    return np.arange(max(0, n - k), n)


def texts(figure):
    figure.canvas.draw()
    labels = [t.get_text() for ax in figure.axes for t in [ax.yaxis.label, *ax.get_yticklabels()]]
    return labels + [ax.get_title(loc) for ax in figure.axes for loc in ("left", "center")]


def names(labels):
    return sorted({str(part) for label in labels for part in (label if isinstance(label, tuple) else [label])})


SAMPLERS.register(Strategy("last8", "the last eight", indices=last_eight, source="a test", grid=True))
P = get_profile("smoke", epochs_second=1, workers=1)
specs = grid(P, "second_improvement", progress=False)
run_all([s for s in specs if s.sampling in ("uniform", "last8")], workers=1, progress=False)
run_laboratories(P, ["frames"], progress=False)
runs, looks = load_runs(P), FRAMES.load(P)
clip = load_manifest(P).path[0]
sheet = contact_sheet(clip)
with narrow():
    on_a_telephone = contact_sheet(clip)
print(json.dumps({
    "grid": sorted({s.protocol for s in specs if s.sampling == "last8"}),
    "order": list(dict.fromkeys(s.sampling for s in specs)),
    "table": names(table_sampling(runs).index),
    "comparisons": names(table_comparisons(runs).index),
    "answer": texts(plot_answer(runs)),
    "curves": texts(plot_curves(runs, "second_improvement")),
    "contact sheet": texts(sheet),
    "frames beside each other": [of.axes[0].get_gridspec().ncols for of in (sheet, on_a_telephone)],
    "pictures and timelines": [len(of.axes) for of in (sheet, on_a_telephone)],
    "frames": names(show_frames(table_frames(looks)).index),
    "frames figure": texts(plot_frames(looks)),
}))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def shown(home):
    "Where a strategy is seen that was registered in one line of a program."
    environment = {**os.environ, "FRAMES_MATTER_HOME": str(home), "MPLBACKEND": "agg"}
    done = subprocess.run([sys.executable, "-c", SEVENTH], env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_contact_sheet_of_a_telephone_has_lines_of_four(shown):
    assert shown["frames beside each other"] == [8, 4]
    on_a_page, on_a_telephone = shown["pictures and timelines"]
    assert on_a_page == on_a_telephone


def test_a_strategy_of_ones_own_is_in_the_grid(shown):
    assert shown["grid"] == ["published", "sound"]
    assert shown["order"] == ["uniform", "mean", "keyframes", "weighted", "dropout", "dropout_described", "last8"]


@pytest.mark.parametrize(
    ("where", "as_what"),
    [
        ("table", "last8"),
        ("comparisons", "last8 against uniform frames"),
        ("answer", "last8"),
        ("curves", "last8"),
        ("contact sheet", "last8"),
        ("frames", "the last eight"),
        ("frames figure", "the last eight"),
    ],
)
def test_a_strategy_of_ones_own_is_shown(shown, where, as_what):
    assert as_what in shown[where], shown[where]


def test_a_strategy_that_is_not_registered_loses_no_row(shown, home, monkeypatch):
    "The report of another process knows nothing of it but its records."
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(home))
    assert "last8" not in SAMPLERS
    P = get_profile("smoke", epochs_second=1, workers=1)
    runs = load_runs(P)
    assert "last8" in table_sampling(runs).index.get_level_values("frames")
    assert "last8 against uniform frames" in table_comparisons(runs).index


def test_the_studys_strategies_come_first_and_in_its_order():
    belonging = {name: strategy.protocols for name, strategy in SAMPLERS.items() if strategy.grid}
    assert list(belonging) == ["uniform", "mean", "keyframes", "weighted", "dropout", "dropout_described"]
    assert {name for name, protocols in belonging.items() if protocols == ("sound",)} == {"dropout_described"}
    drawing = {name for name, strategy in SAMPLERS.items() if strategy.draws}
    assert drawing == {"weighted", "dropout", "dropout_described", "random_segments"}
