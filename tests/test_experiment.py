"""The experiment runner: the same numbers however it is run, and nothing lost when it is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from frames_matter.base.errors import UserError
from frames_matter.base.files import checkout_id
from frames_matter.base.profiles import get_profile
from frames_matter.model.training import encode_clips, pairwise_similarity
from frames_matter.study.grid import grid
from frames_matter.study.runner import load_head, model_dir, run, run_all
from frames_matter.study.store import finished, runs_path

OVERRIDES = dict(epochs_first=2, epochs_second=1)


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    "The smoke profile in a home of its own, its dataset built."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAMES_MATTER_HOME", str(tmp_path_factory.mktemp("home")))
        P = get_profile("smoke", **OVERRIDES)
        grid(P, "zero_shot", progress=False)
        yield P


@pytest.fixture(scope="module")
def specs(profile):
    return grid(profile, "first_improvement", progress=False)


KILLED = f"""
from frames_matter.base.profiles import get_profile
from frames_matter.study.grid import grid
from frames_matter.study.runner import run_all
run_all(grid(get_profile("smoke", **{OVERRIDES}), "first_improvement", progress=False), workers=2, progress=False)
"""


def children(pid):
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_killed_and_continued(profile, specs):
    "kill -9 of a running command: its workers end, what was finished stays, and only the rest is done."
    process = subprocess.Popen([sys.executable, "-c", KILLED], env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        wait_for(lambda: runs_path(profile).is_file() or process.poll() is not None)
        workers = children(process.pid)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    wait_for(lambda: not any(alive(p) for p in workers), 20)
    before = finished(profile)
    assert 1 <= len(before) < len(specs)
    records = run_all(specs, workers=2, progress=False)
    after = finished(profile)
    assert [r["spec_hash"] for r in records] == [s.hash for s in specs] and len(after) == len(specs)
    assert all(after[h] == r for h, r in before.items()), "a finished run was repeated"
    assert not list(runs_path(profile).parent.glob(".*.partial*"))
    stamp = runs_path(profile).read_bytes()
    assert run_all(specs, workers=2, progress=False) == records and runs_path(profile).read_bytes() == stamp


def test_torn_line_is_done_again(profile, specs):
    records = run_all(specs, workers=2, progress=False)
    path = runs_path(profile)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1] + [lines[-1][:200]]))
    assert len(finished(profile)) == len(specs) - 1
    again = run_all(specs, workers=1, progress=False)
    assert [r["metrics"] for r in again] == [r["metrics"] for r in records]


@pytest.mark.parametrize("protocol", ["published", "sound"])
def test_same_seed_same_numbers(profile, specs, protocol):
    "In a process of its own, here, and here again: the very same numbers; another seed gives others."
    chosen = [
        s
        for s in grid(profile, "second_improvement", progress=False)
        if s.protocol == protocol and s.loss == "hnac" and s.sampling in ("keyframes", "weighted")
    ]
    spawned = run_all(chosen, workers=2, progress=False)
    for spec, record in zip(chosen, spawned):
        again = run(spec)
        assert again["metrics"] == record["metrics"] and again["curves"] == record["curves"]
    assert run(replace(chosen[0], seed=7))["curves"] != spawned[0]["curves"]


def test_record(profile, specs):
    "What every record holds, and what each protocol measures."
    for record in run_all(specs, workers=2, progress=False):
        assert set(record) >= {
            "spec",
            "spec_hash",
            "run_by",
            "seed",
            "protocol",
            "curves",
            "metrics",
            "n_queries",
            "n_clips",
            "versions",
            "machine",
            "seconds",
            "finished",
        }
        metrics = record["metrics"]
        if record["protocol"] == "sound":
            assert (
                metrics["evaluation_split"] == "pool"
                and metrics["test_reads"] == 1
                and len(metrics["ranks_t2v"]) == record["n_queries"] == profile.n_pool
            )
            assert (
                any(name.startswith("foil_") for name in metrics)
                and 0 <= metrics["t2v_r1"] <= metrics["t2v_r10"] <= 100
            )
        else:
            assert (
                metrics["alignment_loss"] == metrics["alignment_loss_last"] >= metrics["alignment_loss_best"]
                and "t2v_r1" not in metrics
            )
        assert all(len(curve) == OVERRIDES["epochs_first"] for curve in record["curves"].values())


def test_kept_model_comes_back(profile, specs):
    "The kept towers and head give the stored numbers."
    from frames_matter.metrics.retrieval import ranks
    from frames_matter.model.weights import load_viclip
    from frames_matter.study.measure import pairs_of

    spec = next(s for s in specs if s.protocol == "sound" and s.architecture == "cross_attention")
    record = run(spec, keep_model=True)
    folder = model_dir(spec)
    assert json.loads((folder / "spec.json").read_text()).items() >= spec.identity.items()
    model, head, pairs = load_viclip(str(folder / "viclip.safetensors")), load_head(folder), pairs_of(spec, "pool")
    with torch.no_grad():
        scores = pairwise_similarity(head, encode_clips(model, pairs.frames(), batch_size=8), pairs.text)
    assert ranks(scores.numpy(), range(len(scores))).tolist() == record["metrics"]["ranks_t2v"]


@pytest.mark.parametrize("workers", [1, 2])
def test_failure_names_the_run(specs, workers):
    "One line, naming the run; no traceback of a worker."
    bad = [replace(s, weights="/absent/weights.safetensors", seed=99) for s in specs[:2]]
    with pytest.raises(UserError) as e:
        run_all(bad, workers=workers, progress=False)
    assert any(
        str(e.value).startswith(f"Run {s} failed: No file at /absent/weights.safetensors") for s in bad
    ) and "\n" not in str(e.value)


def test_data_that_changed_is_refused(specs):
    with pytest.raises(UserError, match="no longer the one this run is specified on"):
        run(replace(specs[0], data="0" * 16))


def test_runs_of_another_checkout_do_not_count(profile, specs):
    run_all(specs[:1], workers=1, progress=False)
    path, own = runs_path(profile), checkout_id()
    path.write_text(path.read_text().replace(own, "another-one"))
    assert not finished(profile)
    run_all(specs[:1], workers=1, progress=False)
    assert list(finished(profile)) == [specs[0].hash]
