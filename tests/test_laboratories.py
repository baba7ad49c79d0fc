"""The laboratories: the same cell twice gives the same bits, and what their committed records say is possible."""

import json

import numpy as np
import pytest
from laboratory_runs import run_of
from scipy.stats import binom

from frames_matter.base.errors import UserError
from frames_matter.base.profiles import get_profile
from frames_matter.labs.registry import LABORATORIES, run_laboratories


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    "The smoke profile in a home of its own."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAMES_MATTER_HOME", str(tmp_path_factory.mktemp("home")))
        yield get_profile("smoke", workers=1)


def one(specs, **wanted):
    return next(s for s in specs if all(value(s, k) == v for k, v in wanted.items()))


def value(spec, name):
    "Of a field, or of a laboratory's option."
    return getattr(spec, name) if hasattr(spec, name) else spec.option(name)


CELLS = [
    ("audit", dict(architecture="fusion", protocol="published", switches=("split_by_clip",))),
    ("audit", dict(architecture="cross_attention", protocol="sound", canary="random_features")),
    ("audit", dict(architecture="viclip", protocol="published", canary="shuffled_captions")),
    ("audit", dict(deal=3, split_by="clip")),
    ("audit", dict(deal=3, split_by="video")),
    ("frames", dict(sampling="medoids")),
    ("frames", dict(control="shuffled")),
    ("frames", dict(control="text_conditioned")),
    ("cross_validation", dict(method="fusion")),
    ("cross_validation", dict(method="zero_shot")),
]


@pytest.mark.parametrize(
    "laboratory, wanted", CELLS, ids=lambda x: "-".join(map(str, x.values())) if isinstance(x, dict) else x
)
def test_same_seed_same_bits(profile, laboratory, wanted):
    spec = one(LABORATORIES[laboratory].specs(profile, progress=False), **wanted)
    first, again = run_of(spec), run_of(spec)
    assert (first["curves"], first["metrics"], first["spec_hash"]) == (
        again["curves"],
        again["metrics"],
        again["spec_hash"],
    )
    queries, reads = (
        (10, 2 if wanted["method"] == "fusion" else 1) if laboratory == "cross_validation" else (8, 1)
    )  # two folds of five, a model each where it is trained
    assert (
        first["metrics"]["test_reads"] == reads
        and len(first["metrics"]["ranks_t2v"]) == queries
        and len(json.dumps(first)) < 10_000
    )


def test_published_runs_are_split_by_clip(profile):
    specs = LABORATORIES["audit"].specs(profile, progress=False)
    assert {s.split_by for s in specs if s.protocol == "published" and not s.option("switches")} == {"clip"} and {
        s.split_by for s in specs if s.protocol == "sound" and not s.option("switches")
    } == {"video"}


def test_more_seeds_are_the_same_runs(profile):
    "The laboratory of seeds repeats no run of the study's grids."
    from frames_matter.study.grid import PHASES, grid

    more, study = (
        {s.hash for s in LABORATORIES["seeds"].specs(profile, progress=False)},
        {s.hash for phase in PHASES for s in grid(profile, phase, False)},
    )
    assert study < more


@pytest.mark.parametrize("laboratory", LABORATORIES)
def test_no_run_twice(profile, laboratory):
    specs = LABORATORIES[laboratory].specs(profile, progress=False)
    assert len(specs) == len({s.hash for s in specs}) > 0


def test_unknown_laboratory(profile):
    names = "seeds, audit, frames, favourite, shifts, losses, ladder, shifted_ladder, cross_validation"
    with pytest.raises(UserError, match=f"Unknown laboratory 'colours'; valid: {names}"):
        run_laboratories(profile, ["colours"])


# --- the committed records ---


@pytest.fixture(scope="module")
def records(root):
    "Records of the laboratories on mini, by phase."
    lines = [
        json.loads(line) for line in (root / "results" / "mini" / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return {phase: [r for r in lines if r["spec"]["phase"] == phase] for phase in ("audit", "frames")}


def test_ceiling_is_never_exceeded(records):
    "Where the frames cannot tell, no strategy is right more often than guessing allows."
    told = [
        (r["spec"]["sampling"], o, t)
        for r in records["frames"]
        if "told" in r["metrics"]
        for o, t in zip(r["metrics"]["outcomes"], r["metrics"]["told"], strict=True)
    ]
    assert {s for s, _, _ in told} >= {
        "uniform",
        "mean",
        "keyframes",
        "weighted",
        "dropout",
        "single",
        "motion",
        "medoids",
    }
    for strategy in sorted({s for s, _, _ in told}):
        blind = ["0½1".index(o) / 2 for s, o, t in told if s == strategy and t == "0"]
        if blind:
            assert sum(blind) <= binom.ppf(0.999, len(blind), 0.5), (
                f"{strategy} is right in {sum(blind)} of {len(blind)} clips whose frames cannot tell"
            )


def test_order_is_lost_in_the_mean(records):
    "A mean frame has no order: guessing. Eight uniform frames have one."

    def order(look):
        return np.array(
            [
                [
                    "0½1".index(o) / 2
                    for o, k in zip(r["metrics"]["outcomes"], r["metrics"]["kinds"], strict=True)
                    if k == "o"
                ]
                for r in records["frames"]
                if r["spec"]["sampling"] == look and not r["spec"].get("control")
            ]
        ).ravel()

    low, high = binom.interval(0.999, len(order("mean")), 0.5)
    assert low <= order("mean").sum() <= high and order("uniform").mean() > 0.85


def test_sound_canaries_are_chance(records):
    "On mini too: no head under the sound protocol finds a caption's clip in noise more often than chance does."
    canaries = [r for r in records["audit"] if r["spec"].get("canary")]
    if not canaries:
        pytest.skip("the record holds no run of laboratory audit")
    assert {(r["spec"]["architecture"], r["spec"]["protocol"]) for r in canaries} == {
        (a, p) for a in ("viclip", "cross_attention", "fusion") for p in ("published", "sound")
    }
    for r in canaries:
        n, hits = r["n_queries"], (np.array(r["metrics"]["ranks_t2v"]) <= 1).sum()
        assert hits <= binom.ppf(1 - 0.001 / len(canaries), n, 1 / n)
        if r["spec"]["protocol"] == "sound":
            assert r["metrics"]["alignment_loss"] > 0.5 * np.log(5)
    leak = [
        r["metrics"]["alignment_loss"]
        for r in canaries
        if r["spec"]["protocol"] == "published" and r["spec"]["architecture"] == "fusion"
    ]
    assert max(leak) < 0.2 * np.log(5) and np.mean(leak) < 0.1, (
        "the study's fusion loss no longer hides that there is nothing"
    )
