"""What could be seen with so many clips: variances come back, more clips and films help, and bad numbers are told."""

import json

import numpy as np
import pytest

from frames_matter.base.errors import UserError
from frames_matter.cli import run_command
from frames_matter.clips.components import Components, components_of
from frames_matter.clips.power import plot_power, say_power, table_power
from frames_matter.metrics.stats import comparisons

KNOWN = Components(films=0.01, clips=0.04, seeds=0.002, of="made up")


def drawn(rng, films, each, seeds):
    "Differences (seeds, clips) with the variances of `KNOWN`, and the film of each clip."
    of_film, groups = np.sqrt(KNOWN.films) * rng.standard_normal(films), np.repeat(np.arange(films), each)
    clips = of_film[groups] + np.sqrt(KNOWN.clips) * rng.standard_normal(films * each)
    return clips + np.sqrt(KNOWN.seeds) * rng.standard_normal((seeds, 1)), groups


def test_variances_come_back():
    found = components_of(*drawn(np.random.default_rng(0), 3000, 3, 60))
    assert found.films == pytest.approx(KNOWN.films, rel=0.15)
    assert found.clips == pytest.approx(KNOWN.clips, rel=0.05)
    assert found.seeds == pytest.approx(KNOWN.seeds, rel=0.5)


def test_four_of_five_experiments_find_what_is_said_to_be_seen():
    "200 experiments with the difference that the table names, judged by the test that the house uses."
    films, each, seeds = 20, 3, 5
    points = table_power(KNOWN, [films * each], films, seeds).detectable.iloc[0]
    rng, found = np.random.default_rng(1), 0
    for _ in range(200):
        difference, groups = drawn(rng, films, each, seeds)
        table = comparisons({"it": (np.zeros_like(difference), difference + points / 100)}, groups)
        found += table.p["it"] < 0.05
    assert 0.7 <= found / 200 <= 0.9


def test_more_clips_and_more_films_show_more():
    table = table_power(KNOWN, [30, 100, 300])
    assert (np.diff(table.detectable) < 0).all() and table.films.to_list() == [10, 33, 100]
    few, many = (table_power(KNOWN, [100], films).detectable.iloc[0] for films in (5, 100))
    assert few > many
    assert np.allclose(table[["films %", "clips %", "seeds %"]].sum(axis=1), 100)
    assert "30 clips of 10 films" in say_power(KNOWN, table)
    assert len(plot_power(KNOWN, table).axes[0].lines) == 3


@pytest.mark.parametrize(
    "line, said",
    [
        ("power --clips 30,many", "'many' is none"),
        ("power --clips -3", "--clips takes numbers"),
        ("power --clips 5 --sources 9", "no more films than clips"),
        ("power --clips 1", "2 films or more"),
        ("power --seeds 0", "--seeds is at least 1"),
    ],
)
def test_numbers_that_are_none(line, said, capsys, monkeypatch):
    monkeypatch.setattr("frames_matter.clips.power.components_of_record", lambda profile: KNOWN)
    assert run_command(line.split()) == 2
    assert said in capsys.readouterr().err


def test_a_table_for_programs(capsys, monkeypatch):
    "The numbers of the table, whole."
    monkeypatch.setattr("frames_matter.clips.power.components_of_record", lambda profile: KNOWN)
    assert run_command(["power", "--clips", "30,100", "--seeds", "5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["variances_of"] == KNOWN.of and told["seeds"] == 5
    assert told["rows"] == table_power(KNOWN, [30, 100], seeds=5).reset_index().to_dict("records")


def test_without_a_record_it_is_said_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path))
    assert run_command(["power"]) == 2
    assert "judge clips of your own" in capsys.readouterr().err


def test_few_films_tell_nothing_of_films():
    with pytest.raises(UserError, match="5 of them or more; these are 2"):
        components_of(np.zeros((1, 4)), np.array([0, 0, 1, 1]))
