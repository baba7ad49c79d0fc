"The ladder from end to end: each rung is what it says, the same numbers twice, and the pool has no say in a choice."

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from laboratory_runs import run_of

from frames_matter.base.errors import UserError
from frames_matter.base.profiles import get_profile
from frames_matter.labs.ladder import RUNGS, ladder_epochs, shares
from frames_matter.labs.ladder_runs import ALPHAS
from frames_matter.labs.registry import LABORATORIES
from frames_matter.model.adaptation import calibration
from frames_matter.study.grid import grid
from frames_matter.study.runner import model_dir, run
from frames_matter.study.store import finished


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    "Twenty clips in a home of their own: 16 to train on, 2 to validate on."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAMES_MATTER_HOME", str(tmp_path_factory.mktemp("home")))
        yield get_profile("smoke", n_clips=20)


@pytest.fixture(scope="module")
def specs(profile):
    return LABORATORIES["ladder"].specs(profile, progress=False)


@pytest.fixture(scope="module")
def records(specs):
    "One short run a rung, at its largest rate."
    last = {s.option("method"): replace(s, epochs=min(2, s.epochs)) for s in specs if s.seed == 0}
    return {method: run_of(spec, keep_model=method in ("linear", "lora")) for method, spec in last.items()}


def test_grid(profile, specs):
    assert (
        len(specs)
        == 1 + len(profile.seeds) * sum(len(r.rates) or 1 for m, r in RUNGS.items() if m != "zero_shot")
        == len({s.hash for s in specs})
    )
    assert {s.option("n_train", 0) for s in specs} == {0, shares(20)[0]} and all(
        s.epochs == (ladder_epochs(16) if s.learning_rate else 0) for s in specs
    )
    assert all(s.protocol == "sound" and s.phase == "ladder" for s in specs)


def test_fields_of_the_ladder_are_no_part_of_other_runs(profile):
    assert not {"method", "n_train"} & grid(profile, "zero_shot", progress=False)[0].identity.keys()


def test_zero_shot_is_the_study_s(profile, records):
    study = run(grid(profile, "zero_shot", progress=False)[-1])
    assert (
        study["protocol"] == "sound" and study["metrics"]["ranks_t2v"] == records["zero_shot"]["metrics"]["ranks_t2v"]
    )


def test_temperature_changes_odds_and_no_rank(records):
    tempered, zero = records["temperature"]["metrics"], records["zero_shot"]["metrics"]
    assert tempered["ranks_t2v"] == zero["ranks_t2v"] and tempered["nll_fitted"] != tempered["nll"] == zero["nll"]


def test_averages_end_at_fine_tuning_and_start_at_zero_shot(records):
    full, zero = records["full"]["metrics"], records["zero_shot"]["metrics"]
    assert (
        full["wise_t2v_r1"][0] == zero["t2v_r1"]
        and full["wise_t2v_r1"][-1] == full["t2v_r1"]
        and full["wise_alignment_loss"][-1] == full["alignment_loss"]
    )
    assert full["wise_alpha"] == ALPHAS[int(np.argmin(full["wise_alignment_loss"]))] and full["test_reads"] == len(
        ALPHAS
    )


def test_every_scoring_of_the_pool_is_counted(records):
    "Averages are scored each, a tempered matrix a second time; all else once."
    once = dict.fromkeys(("zero_shot", "linear", "lora"), 1)
    assert {m: r["metrics"]["test_reads"] for m, r in records.items()} == once | {
        "temperature": 2,
        "full": len(ALPHAS),
    }


def test_every_rung_trains_what_it_says(records):
    trained = {m: r["metrics"]["trainable_parameters"] for m, r in records.items()}
    assert (
        trained["zero_shot"] == trained["temperature"] == 0 < trained["linear"] < trained["full"]
        and 0 < trained["lora"] < trained["full"]
    )
    assert all(len(r["curves"]["train_loss"]) == (2 if RUNGS[m].rates else 0) for m, r in records.items())
    assert len({r["metrics"]["nll"] for m, r in records.items() if m != "temperature"}) == 4, (
        "a rung found just what another did"
    )


@pytest.mark.parametrize("method", ["linear", "lora"])
def test_kept_model_is_what_was_measured(profile, specs, records, method):
    "Heads and adapters are merged into a plain ViCLIP, which finds what the record says."
    import torch

    from frames_matter.data.dataset import VideoCaptionDataset
    from frames_matter.data.manifest import load_manifest
    from frames_matter.metrics.retrieval import ranks
    from frames_matter.model.tokenizer import tokenizer_for
    from frames_matter.model.training import encode_clips, pairwise_similarity
    from frames_matter.model.weights import load_viclip

    spec = next(s for s in specs if s.option("method") == method)
    folder = next(
        p for p in model_dir(spec).parent.iterdir() if json.loads((p / "spec.json").read_text())["method"] == method
    )
    model, data = (
        load_viclip(str(folder / "viclip.safetensors")),
        VideoCaptionDataset(load_manifest(profile), "pool", size=spec.image_size),
    )
    with torch.no_grad():
        text = model.encode_text(
            tokenizer_for(profile)([item["caption"] for item in data], context_length=model.config.context_length)
        )
    s = pairwise_similarity(None, encode_clips(model, torch.stack([item["video"] for item in data])), text)
    assert (
        calibration(s, spec.temperature)["nll"]
        == pytest.approx(records[method]["metrics"]["nll"], rel=1e-4)
        != records["zero_shot"]["metrics"]["nll"]
    )
    assert ranks(s.numpy(), range(len(s))).tolist() == records[method]["metrics"]["ranks_t2v"]


def test_same_numbers_twice_and_small_records(profile, specs):
    spec = replace(next(s for s in specs if s.option("method") == "lora"), epochs=1)

    def timeless(record):
        metrics = {k: v for k, v in record["metrics"].items() if k != "train_seconds"}
        return metrics | {"curves": record["curves"]}

    first = run_of(spec)
    assert timeless(run_of(spec)) == timeless(first)
    assert all(len(json.dumps(r)) < 10_000 for r in finished(profile).values())


def test_without_peft(specs, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install 'frames_matter\[scale\]'"):
        run_of(next(s for s in specs if s.option("method") == "lora"))


def test_unknown_rung(specs):
    with pytest.raises(UserError, match="Unknown rung 'prompt'; valid: zero_shot, temperature, linear, lora, full"):
        run_of(specs[0].with_options(method="prompt"))
