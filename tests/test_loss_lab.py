"The loss laboratory: a small cell of it through run(spec), by either method, and the same twice."

import dataclasses

import pytest
from laboratory_runs import run_of

from frames_matter.base.profiles import get_profile


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
    "The laboratory of the smoke profile, in a home of its own, its dataset built."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAMES_MATTER_HOME", str(tmp_path_factory.mktemp("loss_lab")))
        from frames_matter.labs.registry import LABORATORIES

        yield LABORATORIES["losses"].specs(get_profile("smoke", workers=1), progress=False)


def one(specs, **fields):
    return next(s for s in specs if all(value(s, k) == v for k, v in fields.items()))


def value(spec, name):
    "Of a field, or of a laboratory's option."
    return getattr(spec, name) if hasattr(spec, name) else spec.option(name)


def test_every_specification_is_another(specs):
    assert len({s.hash for s in specs}) == len(specs)
    assert {s.profile for s in specs} == {"smoke", "smoke-light-strong-42"}


def test_cells_name_what_is_there():
    from frames_matter.labs.losses import CELLS, CONTROL, MAIN, OF_STUDY
    from frames_matter.labs.losses_runs import TRAIN
    from frames_matter.labs.tuning import PUBLISHED_SETTING

    assert dict(learning_rate=PUBLISHED_SETTING.learning_rate, temperature=PUBLISHED_SETTING.temperature) == OF_STUDY
    assert {cell.method for cell in CELLS.values()} <= set(TRAIN)
    assert CELLS[CONTROL].rate == 1 and not CELLS[CONTROL].losses
    assert all(set(MAIN) <= set(cell.losses or MAIN) for cell in CELLS.values())


@pytest.mark.parametrize(
    "fields",
    [
        dict(cell="few", loss="sigmoid"),
        dict(cell="few_published", loss="hnac"),
        dict(cell="control", loss="oracle"),
        dict(cell="tower_all", loss="oracle"),
    ],
    ids=lambda f: f["cell"],
)
def test_same_seed_same_record(specs, fields):
    from frames_matter.study.store import finished

    spec = one(specs, **fields)
    first, again = run_of(spec), run_of(spec)
    assert first["curves"] == again["curves"] and first["metrics"] == again["metrics"]
    m = first["metrics"]
    assert m["test_reads"] == 1
    assert len(m["ranks_t2v"]) == len(m["ranks_v2t"]) == len(m["ndcg_each"]) == first["n_queries"] == 8
    assert_tuned_as_told(spec, m)
    assert finished(spec.resolved_profile())[spec.hash]["metrics"] == m


def assert_tuned_as_told(spec, m):
    "What the specification leaves open is chosen by the best score, and what it gives is taken."
    for name in ("learning_rate", "temperature"):
        given = getattr(spec, name)
        assert m[f"chosen_{name}"] == given or not given
    tried = list(zip(m["tried_learning_rates"], m["tried_temperatures"], m["tried_scores"], strict=True))
    assert bool(tried) == (not spec.temperature)
    if tried and not spec.learning_rate:
        best = max(tried, key=lambda one: one[2])
        assert (m["chosen_learning_rate"], m["chosen_temperature"]) == best[:2]
        assert len({rate for rate, _, _ in tried}) == len({t for _, t, _ in tried}) == 3


def test_batches_hold_what_is_planted(specs):
    from frames_matter.labs.losses_runs import _frozen, _same_data, epochs_of

    for cell, met in (("control", 1.0), ("few", 0.2), ("few_dark", 0.2)):
        spec = one(specs, cell=cell, loss="infonce")
        data = _frozen(_same_data(spec))
        takes = spec.option("takes")
        assert data.groups.shape == (8, takes) and len(data.text) == 8 * takes
        assert all(data.relevant[group][:, group].all() for group in data.groups.tolist())  # true of one another
        [batches] = epochs_of(dataclasses.replace(spec, epochs=1), data)
        home = {i: b for b, batch in enumerate(batches) for i in batch.tolist()}
        together = [len({home[i] for i in group}) == 1 for group in data.groups.tolist()]
        assert sum(together) == round(met * 8)


def test_no_scene_is_held_out_in_part(specs):
    import numpy as np

    from frames_matter.labs.losses_runs import _frozen, _same_data
    from frames_matter.labs.tuning import grouped_folds

    data = _frozen(_same_data(one(specs, cell="control", loss="infonce")))
    for held in grouped_folds(data.video_of):
        parts = np.isin(data.groups, held).sum(axis=1)
        assert set(parts) <= {0, data.groups.shape[1]}
        rest = data.without(held)
        assert len(rest.text) == len(data.text) - len(held)
        assert not set(rest.videos) & set(data.video_of[held])


def test_false_negatives_are_of_the_mini_world(specs):
    from frames_matter.base.errors import UserError
    from frames_matter.labs.losses_runs import compare_losses
    from frames_matter.study.measure import Run

    foreign = dataclasses.replace(one(specs, cell="few"), overrides=(("source", "hub"),))
    with pytest.raises(UserError, match="not of the mini world"):
        compare_losses(foreign, Run.of(foreign))
