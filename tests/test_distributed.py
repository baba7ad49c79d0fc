"""Several processes on one batch: the loss and every gradient are those of one process that holds all of it.

Real processes that meet on loopback (gloo on the CPU, where NCCL would stand on GPUs); gradients averaged by torch's
DistributedDataParallel through accelerate. And bfloat16: close to float32.
"""

import math
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from frames_matter.base.errors import UserError
from frames_matter.base.profiles import get_profile
from frames_matter.model import training
from frames_matter.model.compute import (
    GatherWithGradients,
    data_parallel,
    join_processes,
    launch_processes,
    process_rank_and_count,
    shard_positions,
)
from frames_matter.model.heads import CrossAttention, FusionTransformer
from frames_matter.model.protocols import PUBLISHED, SOUND
from frames_matter.model.training import Pairs, Step, Training, encode_clips, fit
from frames_matter.model.viclip import ViCLIP, ViCLIPConfig

pytest.importorskip("accelerate", reason="accelerate is not installed (extra `scale`)")

SMALL = ViCLIPConfig(
    image_size=16,
    patch_size=8,
    vision_width=64,
    vision_layers=2,
    vision_heads=1,
    embed_dim=32,
    num_frames=2,
    context_length=16,
    vocab_size=50,
    text_width=64,
    text_heads=1,
    text_layers=1,
)
HEADS = {
    "dual encoder": None,
    "cross-attention": CrossAttention,
    "fusion": lambda dim: FusionTransformer(dim, layers=2, dropout=0.0),
}
UNMASKED = {
    "sound": SOUND,
    "published": replace(PUBLISHED, train_mask_ratio=0.0),
}  # what is left is not random, so it can be compared
CASES = [
    (head, loss, protocol, n)
    for head in HEADS
    for loss in ("infonce", "hnac")
    for protocol in UNMASKED
    for n in (8, 5, 1)
    if not (head == "dual encoder" and protocol == "published")
]


def model_and_data(head, n, dtype=torch.float64):
    torch.manual_seed(0)
    model, head = ViCLIP(SMALL, drop_path=0.0).to(dtype), HEADS[head] and HEADS[head](32).to(dtype)
    nn.init.normal_(model.vision_encoder.temporal_positional_embedding, std=0.02)
    return model, head, torch.randn(n, 2, 3, 16, 16, dtype=dtype), torch.randn(n, 32, dtype=dtype)


def step_once(head, loss, protocol, n):  # -> loss, gradients by name
    "What one process of a run finds for a batch of n pairs."
    model, head, video, text = model_and_data(head, n)
    model.text_encoder.requires_grad_(False), model.temp.requires_grad_(False)
    step = data_parallel(Step(model, head, Training(loss=loss), UNMASKED[protocol]))
    value = step(video[shard_positions(n)], text)
    value.backward()
    return value.item(), {
        name.removeprefix("module."): p.grad for name, p in step.named_parameters() if p.requires_grad
    }


def fit_once(head):  # -> curves, parameters
    "Two epochs of three batches, the last of a single pair."
    model, head, video, text = model_and_data(head, 9)
    curves = fit(model, head, Pairs(video, text), Pairs(video[:5], text[:5]), Training(loss="hnac", epochs=2), SOUND)
    return curves, {
        name: p.detach() for name, p in [*model.named_parameters(), *(head.named_parameters() if head else [])]
    }


def detached(x):
    "A gather whose gradients stay behind."
    rank, size = process_rank_and_count()
    parts = list(GatherWithGradients.apply(x.detach().contiguous()).chunk(size))
    parts[rank] = x
    return torch.cat(parts)


def member(folder):
    "All that a process of the test does."
    torch.set_num_threads(1)
    join_processes("cpu", 2)
    assert process_rank_and_count()[1] == 2
    found = {"exact": {case: step_once(*case) for case in CASES}, "fit": {head: fit_once(head) for head in HEADS}}
    training.gather_with_gradients = detached
    found["detached"] = {case: step_once(*case) for case in CASES}
    torch.save(found, folder / f"{process_rank_and_count()[0]}.pt")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    "What each of two processes found."
    folder = tmp_path_factory.mktemp("ranks")
    launch_processes(member, (folder,), 2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def fails(what):
    "A process of the next test: the second one fails, the first waits for it."
    join_processes("cpu", 2)
    if process_rank_and_count()[0] == 1:
        raise {"user": UserError("No file at x: give a path."), "other": KeyError("first\nsecond")}[what]
    time.sleep(60)


@pytest.mark.parametrize(
    "what, kind, text",
    [("user", UserError, "No file at x: give a path."), ("other", RuntimeError, r"KeyError: 'first\nsecond'")],
)
def test_an_error_comes_over_as_what_it_is(what, kind, text):
    "A user's error stays one, told by its class and not by how the traceback spells it; any other is one line."
    with pytest.raises(kind) as e:
        launch_processes(fails, (what,), 2)
    assert type(e.value) is kind and str(e.value) == text


def ends():
    os._exit(3)


def test_a_process_that_ends_without_a_word_is_told():
    with pytest.raises(UserError, match="ended with exit code 3; what it said is above"):
        launch_processes(ends, (), 2)


def close(got, expected, rtol=1e-10, atol=1e-12):
    torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}, {c[1]}, {c[2]}, {c[3]} pairs")
def test_loss_and_gradients(both, case):
    "Half of the batch each: the loss of all of it and every gradient, in both processes."
    loss, gradients = step_once(*case)
    assert case[3] == 1 or loss > 0.1
    assert len(gradients) > 20 and (
        case[3] == 1 or all(g.abs().max() > 0 for name, g in gradients.items() if "in_proj" not in name)
    )
    for found in both:
        got_loss, got = found["exact"][case]
        assert math.isclose(got_loss, loss, rel_tol=1e-12, abs_tol=1e-12) and got.keys() == gradients.keys()
        for name, g in gradients.items():
            close(got[name], g)


@pytest.mark.parametrize("case", [c for c in CASES if c[3] > 1], ids=lambda c: f"{c[0]}, {c[1]}, {c[2]}, {c[3]} pairs")
def test_a_detached_gather_would_be_found(both, case):
    "The same loss and other gradients: the comparison above can fail."
    loss, gradients = step_once(*case)
    got_loss, got = both[0]["detached"][case]
    assert math.isclose(got_loss, loss, rel_tol=1e-12)
    with pytest.raises(AssertionError):
        for name, g in gradients.items():
            close(got[name], g, rtol=0.05, atol=1e-6)


@pytest.mark.parametrize("head", HEADS)
def test_whole_fit(both, head):
    "Six optimizer steps lead to the same weights, and to each other's to the last bit."
    curves, parameters = fit_once(head)
    for found in both:
        got_curves, got = found["fit"][head]
        for name in curves:
            close(torch.tensor(got_curves[name]), torch.tensor(curves[name]), 1e-6, 1e-8)
        for name, p in parameters.items():
            if head != "cross-attention" or "in_proj" not in name:
                close(
                    got[name], p, 1e-6, 1e-7
                )  # over one key, queries and keys have gradients of rounding alone, and AdamW makes steps of them
    first, second = (found["fit"][head][1] for found in both)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --- runs ---


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    "A run of the smoke profile for two processes, in a home of its own."
    from frames_matter.study.grid import grid

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAMES_MATTER_HOME", str(tmp_path_factory.mktemp("home")))
        specs = grid(get_profile("smoke", processes=2, epochs_first=2), "first_improvement", progress=False)
        yield next(
            s for s in specs if s.architecture == "cross_attention" and s.loss == "hnac" and s.protocol == "sound"
        )


LAUNCHED = """
import sys
from frames_matter.base.profiles import get_profile
from frames_matter.study.grid import grid
from frames_matter.study.runner import run_all
profile = get_profile("smoke", processes=2, epochs_first=2)
specs = grid(profile, "first_improvement", progress=False)
spec = next(s for s in specs if s.hash == sys.argv[1])
run_all([spec], progress=False)
"""


def test_run_in_two_processes(spec, tmp_path):
    """The runner starts them, or torchrun does, which `accelerate launch` calls for several GPUs.

    The same record, written once, that says how many there were.
    """
    from frames_matter.study.runner import run_all
    from frames_matter.study.store import read_records, runs_path

    store = runs_path(spec.resolved_profile())
    (record,) = run_all([spec], progress=False)
    assert record["spec"]["processes"] == 2 and "precision" not in record["spec"] and len(read_records(store)) == 1
    assert record["metrics"]["test_reads"] == 1 and len(record["curves"]["train_loss"]) == 2
    store.unlink()
    (tmp_path / "script.py").write_text(LAUNCHED)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            str(tmp_path / "script.py"),
            spec.hash,
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (again,) = read_records(store)
    assert {k: again[k] for k in ("spec", "curves", "metrics")} == {k: record[k] for k in ("spec", "curves", "metrics")}


def test_any_run_of_several_processes_keeps_all_in_this_one(spec, monkeypatch):
    "Also where the first one, as zero-shot in the laboratory of seeds, is of one process."
    from frames_matter.labs.registry import LABORATORIES
    from frames_matter.study import runner

    specs = LABORATORIES["seeds"].specs(get_profile("smoke", processes=2, workers=2), progress=False)
    assert specs[0].processes == 1 and {s.processes for s in specs} == {1, 2}
    done, checked = [], []
    monkeypatch.setattr(runner, "finished", lambda profile: {})
    monkeypatch.setattr(runner, "check_machine", lambda *needs: checked.append(needs))
    monkeypatch.setattr(runner, "_in_workers", lambda *given: pytest.fail("a worker was started"))
    monkeypatch.setattr(runner, "_run_once", lambda s, procedure: done.append(s) or {"spec_hash": s.hash})
    assert [r["spec_hash"] for r in runner.run_all(specs, progress=False)] == [s.hash for s in specs]
    assert len(done) == len(specs) and checked == [("cpu", "fp32", 1), ("cpu", "fp32", 2)]


def test_failure_is_one_line(spec):
    from frames_matter.study.runner import run_all

    bad = replace(spec, weights="/absent/weights.safetensors", seed=99)
    with pytest.raises(UserError) as e:
        run_all([bad], progress=False)
    assert (
        str(e.value)
        == f"Run {bad} failed: No file at /absent/weights.safetensors; give nano, a path, or hub:owner/repository/file."
    )


# --- precision ---


@pytest.mark.parametrize("loss", ["infonce", "hnac"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("protocol", UNMASKED)
def test_bfloat16_is_close(head, loss, protocol):
    """Autocast on the CPU runs the same code as on a GPU.

    Features, losses and gradients are near float32's, and float32 where it matters.
    """
    results = {}
    for precision in ("fp32", "bf16"):
        model, h, video, text = model_and_data(head, 8, torch.float32)
        step = Step(model, h, Training(loss=loss, precision=precision), UNMASKED[protocol])
        value = step(video, text)
        value.backward()
        results[precision] = value, model.vision_encoder.proj.grad, encode_clips(model, video, precision=precision)
    (a, grad_a, features_a), (b, grad_b, features_b) = results["fp32"], results["bf16"]
    assert {x.dtype for x in results["bf16"]} == {torch.float32}
    assert not torch.equal(features_a, features_b), "nothing was computed in bfloat16"
    assert torch.cosine_similarity(features_a, features_b, dim=-1).min() > 0.9995
    assert abs(a - b) < 0.02 * a
    assert torch.cosine_similarity(grad_a.flatten(), grad_b.flatten(), dim=0) > 0.99


def test_bfloat16_learns():
    "Whole fine-tunings, masks and stochastic depth included, end near each other and below where they began."
    ends = {}
    for precision in ("fp32", "bf16"):
        model, _, video, text = model_and_data("dual encoder", 8, torch.float32)
        curve = fit(
            model,
            None,
            Pairs(video, text),
            Pairs(video[:5], text[:5]),
            Training(epochs=15, learning_rate=1e-3, precision=precision),
            SOUND,
        )["train_loss"]
        assert curve[-1] < 0.5 * curve[0]
        ends[precision] = curve
    assert abs(ends["fp32"][0] - ends["bf16"][0]) < 0.02 * ends["fp32"][0]
