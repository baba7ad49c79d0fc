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
    assert len({s.hash for s in specs}) == len(specs) and {s.option("method") for s in specs} == {"heads", "full"}


@pytest.mark.parametrize(
    "fields",
    [
        dict(method="heads", loss="sigmoid", false_negatives=0.4),
        dict(method="full", loss="oracle", false_negatives=0.2),
    ],
    ids=lambda f: f["method"],
)
def test_same_seed_same_record(specs, fields):
    from frames_matter.study.store import finished

    spec = one(specs, **fields)
    first, again = run_of(spec), run_of(spec)
    assert first["curves"] == again["curves"] and first["metrics"] == again["metrics"]
    m = first["metrics"]
    assert (
        m["test_reads"] == 1
        and len(m["ranks_t2v"]) == len(m["ranks_v2t"]) == len(m["ndcg_each"]) == first["n_queries"] == 8
    )
    if spec.option("method") == "heads":  # tuned on the alignment clip alone
        curves = first["curves"]
        assert (
            m["chosen_temperature"] in curves["temperatures"]
            and max(curves["validation_rsum"])
            == curves["validation_rsum"][curves["temperatures"].index(m["chosen_temperature"])]
        )
    else:
        assert m["chosen_temperature"] == spec.temperature == 0.07
    assert finished(spec.resolved_profile())[spec.hash]["metrics"] == m


def test_false_negatives_are_of_the_mini_world(specs):
    from frames_matter.base.errors import UserError
    from frames_matter.labs.losses_runs import compare_losses
    from frames_matter.study.measure import Run

    foreign = dataclasses.replace(one(specs, method="heads"), overrides=(("source", "hub"),))
    with pytest.raises(UserError, match="not of the mini world"):
        compare_losses(foreign, Run.of(foreign))
