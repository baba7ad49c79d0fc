"""The experiment runner: the same numbers however it is run, and nothing lost when it is killed."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from frames_matter.base.errors import UserError
from frames_matter.base.files import checkout_id
from frames_matter.base.profiles import get_profile
from frames_matter.model.folder import load_head, read_about
from frames_matter.model.training import encode_clips, pairwise_similarity
from frames_matter.model.weights import load_viclip
from frames_matter.study.grid import grid
from frames_matter.study.measure import Outcome
from frames_matter.study.runner import model_dir, run, run_all
from frames_matter.study.spec import RunSpec
from frames_matter.study.splits import FinalSplit, pairs_of
from frames_matter.study.store import finished, read_records, runs_path, settle, store

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
from frames_matter.model.weights import load_viclip
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
    assert len(read_records(path)) == len(path.read_text().splitlines()) == len(specs), "the torn line was left"


@pytest.mark.parametrize("damage", [b"{", b"[]", b'{"spec": {}}', b"\xff\xfe"], ids=["cut", "list", "half", "bytes"])
def test_damage_that_no_crash_makes_is_an_error_for_everybody(profile, specs, damage):
    "It names file and line; the command that would write and the one that would read say the same."
    run_all(specs, workers=2, progress=False)
    path = runs_path(profile)
    whole = path.read_bytes()
    first, rest = whole.split(b"\n", 1)
    try:
        for content, line in ((first + b"\n" + damage + b"\n" + rest, 2), (whole + damage + b"\n", len(specs) + 1)):
            path.write_bytes(content)
            for ask in (lambda: read_records(path), lambda: finished(profile), lambda: run_all(specs, progress=False)):
                with pytest.raises(UserError) as e:
                    ask()
                assert f"Line {line} of {path} is damaged; delete that line" in str(e.value)
            assert path.read_bytes() == content
        path.write_bytes(whole + damage)  # cut off in the middle: a crash
        assert len(read_records(path)) == len(specs)
    finally:
        path.write_bytes(whole)


def test_a_run_is_added_in_constant_time_and_a_set_of_runs_is_put_in_order(profile, specs):
    "A run that is stored writes its own line and touches no other; two of one run count as the last of them."
    run_all(specs, workers=2, progress=False)
    path = runs_path(profile)
    whole = path.read_bytes()
    try:
        records = read_records(path)
        store(profile, records[0] | {"seconds": 1.5})
        added = path.read_bytes()
        assert added.startswith(whole) and added[len(whole) :].count(b"\n") == 1
        assert [r["seconds"] for r in read_records(path)] == [1.5, *(r["seconds"] for r in records[1:])]
        settle(profile)
        assert path.read_bytes().count(b"\n") == len(specs) and read_records(path)[0]["seconds"] == 1.5
    finally:
        path.write_bytes(whole)


def test_a_disk_that_takes_half_a_line_leaves_the_file_as_it_was(profile, specs, monkeypatch):
    run_all(specs, workers=2, progress=False)
    path = runs_path(profile)
    whole = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        store(profile, read_records(path)[0])
    assert path.read_bytes() == whole


def test_reading_results_loads_no_torch():
    code = "import sys, frames_matter.study.store; print([m for m in ('torch', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("protocol", ["published", "sound"])
def test_same_seed_same_numbers(profile, specs, protocol):
    "In a process of its own, here, and here again: the very same numbers; another seed gives others."
    chosen = [
        s
        for s in grid(profile, "second_improvement", progress=False)
        if s.protocol == protocol and s.loss == "hnac" and s.sampling in ("keyframes", "weighted")
    ]
    spawned = run_all(chosen, workers=2, progress=False)
    for spec, record in zip(chosen, spawned, strict=True):
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

    spec = next(s for s in specs if s.protocol == "sound" and s.architecture == "cross_attention")
    record = run(spec, keep_model=True)
    folder = model_dir(spec)
    assert read_about(folder)["spec"] == json.loads(json.dumps(spec.identity))
    model, head, pairs = load_viclip(folder), load_head(folder), FinalSplit(spec).pairs()
    with torch.no_grad():
        scores = pairwise_similarity(head, encode_clips(model, pairs.frames(), batch_size=8), pairs.text)
    assert ranks(scores.numpy(), range(len(scores))).tolist() == record["metrics"]["ranks_t2v"]
    card = (folder / "README.md").read_text()
    recall = f"R@1 {record['metrics']['t2v_r1']:.1f} ("
    assert recall in card and f"seed {spec.seed}" in card and "Apache-2.0" in card and card.startswith("---\nlibrary")


def test_a_card_claims_no_recall_of_what_was_judged_by_a_loss(specs):
    spec = next(s for s in specs if s.protocol == "published" and s.architecture == "cross_attention")
    run(spec, keep_model=True)
    card = (model_dir(spec) / "README.md").read_text()
    assert "says nothing of retrieval" in card and "R@1" not in card


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


def test_a_run_leaves_the_session_as_it_was(specs):
    "Threads and random numbers of whoever calls are none of a run's business."
    import random

    import numpy as np

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        run(specs[0])
        assert torch.get_num_threads() == 2
        assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    finally:
        torch.set_num_threads(before)


# --- what a notebook registers ---

ELSEWHERE = """
import os
from pathlib import Path
from frames_matter.video.sampling import Strategy

def last(n, k, rng):
    Path(f"last-{os.getpid()}").touch()
    return range(max(0, n - k), n)
"""

REGISTERED = f"""
import os
from pathlib import Path
from frames_matter.base.profiles import get_profile
from frames_matter.study.grid import grid
from frames_matter.study.runner import run_all
from frames_matter.video.sampling import SAMPLERS, Strategy
from elsewhere import last

def first(n, k, rng):
    Path(f"first-{{os.getpid()}}").touch()
    return range(min(n, k))

if __name__ == "__main__":
    SAMPLERS.register(Strategy("last", "the last frames", indices=last, grid=True, protocols=("sound",)))
    SAMPLERS.register(Strategy("first", "the first frames", indices=first, grid=True, protocols=("sound",)))
    profile = get_profile("smoke", **{OVERRIDES})
    specs = [s for s in grid(profile, "second_improvement", progress=False) if s.sampling in ("first", "last")]
    assert len(specs) == 2 * 2 * len(profile.seeds), len(specs)
    records = run_all(specs, workers=2, progress=False)
    assert [r["spec"]["sampling"] for r in records] == [s.sampling for s in specs]
    print("main", os.getpid())
"""


def test_what_is_registered_in_a_notebook_is_run(profile, tmp_path):
    "A strategy from a module goes along to the workers; one defined in the session is run in it, and that is said."
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    (tmp_path / "notebook.py").write_text(REGISTERED)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "notebook.py"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    *said, main = done.stdout.strip().splitlines()
    n = 2 * len(profile.seeds)
    assert said == [
        "The strategy 'first', which is defined in this session, is unknown to worker processes; "
        f"its {n} runs are done in this one, one by one."
    ]
    here = main.split()[1]
    ran = {name: {p.name.split("-")[1] for p in tmp_path.glob(f"{name}-*")} for name in ("first", "last")}
    assert ran["first"] == {here} and ran["last"] and here not in ran["last"]


def test_what_workers_cannot_have(specs):
    from frames_matter.study.runner import defined_here

    assert not defined_here(specs[0])
    assert defined_here(specs[0], lambda spec, run: None).startswith("The procedure, which is defined in this session")


def test_pairs_at_positions(specs):
    pairs = pairs_of(specs[0], "train")
    some = pairs.at([2, 0])
    assert torch.equal(some.frames(), pairs.frames()[[2, 0]]) and torch.equal(some.text, pairs.text[[2, 0]])


# --- the gate to the final split ---


def scores_it(n, spec, run):
    "A procedure that scores the final split n times."
    for _ in range(n):
        run.final.pairs()
    return Outcome(load_viclip(spec.weights), metrics={"n_evaluated": run.final.n_clips})


def test_a_second_reading_is_refused(specs):
    with pytest.raises(UserError, match="read its final split 'pool' again, and may read it once"):
        run(specs[0], partial(scores_it, 2))


def test_readings_are_counted(profile, specs):
    "The record holds what was counted; who never looks has no count."
    assert "test_reads" not in run(specs[0], partial(scores_it, 0))["metrics"]
    assert run(specs[0], partial(scores_it, 1))["metrics"]["test_reads"] == 1
    assert finished(profile)[specs[0].hash]["metrics"]["test_reads"] == 1

    def twice(spec, run):
        run.final.allow(2)
        return scores_it(2, spec, run)

    assert run(specs[0], twice)["metrics"]["test_reads"] == 2
    runs_path(profile).unlink()  # what stands there is not of the study's procedure


def test_no_way_around_the_gate(specs):
    "Not by the function for the other splits, and not by a limit that is raised after the first look."
    with pytest.raises(UserError, match="ask `run.final.pairs"):
        pairs_of(specs[0], "pool")
    final = FinalSplit(specs[0])
    final.pairs()
    with pytest.raises(UserError, match="before its first"):
        final.allow(2)
    with pytest.raises(UserError, match="again"):
        final.pairs()
    assert final.reads == 1 and len(pairs_of(specs[0], "train").text) and len(pairs_of(specs[0], "alignment").text)


# --- the identity of a run ---


def test_every_committed_hash_is_that_of_its_specification(root):
    "Each record in results/ is found again by the specification that stands in it."
    paths = sorted((root / "results").glob("*/runs.jsonl"))
    records = [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(records) > 100
    for record in records:
        spec = RunSpec.from_identity(record["spec"])
        assert spec.hash == record["spec_hash"], f"{spec} is stored as {record['spec_hash']}"
        assert json.loads(json.dumps(spec.identity)) == record["spec"]


def test_options(specs):
    "Set ones are part of the identity, empty ones are none, and no field can be given as one."
    plain = specs[0]
    ladder = plain.with_options(method="linear", n_train=40)
    assert ladder.option("method") == "linear" and plain.option("method", "none") == "none"
    assert ladder.hash != plain.hash and RunSpec.from_identity(ladder.identity, plain.overrides) == ladder
    assert plain.with_options(method="", n_train=0, switches=(), false_negatives=0.0) == plain
    assert replace(plain, options={"b": 1, "a": [2]}).options == (("a", (2,)), ("b", 1))
    with pytest.raises(UserError, match="seed is a field of every run"):
        plain.with_options(seed=3)
    with pytest.raises(UserError, match="needs loss, seed too"):
        RunSpec.from_identity({k: v for k, v in plain.identity.items() if k not in ("loss", "seed")})
