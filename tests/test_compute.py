"""What would hurt on a GPU, looked for without one.

Tensors left on another device, precision lost where it counts, a benchmark that does not run.
"""

import importlib.util
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from frames_matter.base.errors import UserError
from frames_matter.model.compute import check_machine, deal_gpus, take_gpu
from frames_matter.model.heads import CrossAttention, FusionTransformer
from frames_matter.model.protocols import PROTOCOLS, SOUND
from frames_matter.model.training import Step, Training, encode_clips, pairwise_similarity, trainable_parameters
from frames_matter.model.viclip import ViCLIP, ViCLIPConfig

HEADS = {"dual encoder": None, "cross-attention": CrossAttention, "fusion": FusionTransformer}
LARGE = ViCLIPConfig()  # L/14


@pytest.fixture(scope="module")
def large():
    "ViCLIP-L without its weights: the meta device knows shapes and devices, and refuses to mix with the CPU."
    with torch.device("meta"):
        return ViCLIP(LARGE)


def step_on_meta(model, head, loss, protocol, n=4):
    with torch.device("meta"):
        head = HEADS[head] and HEADS[head](LARGE.embed_dim)
        video, text = torch.empty(n, 8, 3, 224, 224), torch.empty(n, LARGE.embed_dim)
    parameters = trainable_parameters(model, head, PROTOCOLS[protocol])
    model.zero_grad(set_to_none=True)
    loss = Step(model.train(), head, Training(loss=loss), PROTOCOLS[protocol])(video, text)
    loss.backward()
    return loss, parameters


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("loss", ["infonce", "hnac"])
@pytest.mark.parametrize("head", HEADS)
def test_a_step_stays_on_its_device(large, head, loss, protocol):
    "Masks, stochastic depth, positions, indices, weights of negatives: all are made where the model is."
    value, parameters = step_on_meta(large, head, loss, protocol)
    assert value.device.type == "meta" and value.shape == ()
    assert parameters and all(p.grad is not None and p.grad.device.type == "meta" for p in parameters.values())


def test_meta_finds_what_is_left_behind(large):
    "The test above can fail: a tensor of the CPU among those of another device is an error."
    with pytest.raises(RuntimeError):
        large.vision_encoder(torch.empty(1, 8, 3, 224, 224))


def test_evaluation_stays_on_its_device(large):
    with torch.device("meta"):
        head, video, text, ids = (
            FusionTransformer(LARGE.embed_dim).eval(),
            torch.empty(3, 8, 3, 224, 224),
            torch.empty(5, LARGE.embed_dim),
            torch.empty(5, 32, dtype=torch.long),
        )
    features = encode_clips(large, video, mask_ratio=0.9)
    assert (
        features.device.type
        == pairwise_similarity(head, features, text).device.type
        == large.encode_text(ids).device.type
        == "meta"
    )


def closed_form(config, B, kept):  # multiply-adds count twice
    """Operations of a training step of the dual encoder.

    Each block's projections and attention, the last one's for the class token alone; patches need no gradient of their
    pixels.
    """
    n, W, L = kept + 1, config.vision_width, config.vision_layers
    blocks = (L - 1) * (24 * n * W * W + 4 * n * n * W) + 4 * n * W * W + 4 * n * W + 20 * W * W
    return (
        3 * B * (blocks + 2 * W * config.embed_dim)
        + 2 * B * 2 * kept * (3 * config.patch_size**2) * W
        + 2 * 2 * B * B * config.embed_dim
    )


@pytest.mark.parametrize("protocol, kept", [("sound", 2048), ("published", 2048 - 1843)])
def test_operations_of_a_step(large, protocol, kept):
    "What the benchmark divides by its peak, against a formula: 19.1 and 1.5 TFLOP."
    with FlopCounterMode(display=False) as count:
        step_on_meta(large, "dual encoder", "infonce", protocol)
    assert abs(count.get_total_flops() / closed_form(LARGE, 4, kept) - 1) < 1e-6


# --- the benchmark ---


def bench(root, home, *arguments, **env):
    done = subprocess.run(
        [sys.executable, str(root / "bench" / "gpu.py"), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"FRAMES_MATTER_HOME": str(home), "OMP_NUM_THREADS": "1"} | env,
    )
    return done, home / "results" / "bench" / "gpu.json"


def test_benchmark_runs_small(root, tmp_path):
    "Both protocols, every way of computing; each row with its rate, and none past the limit of time."
    done, path = bench(root, tmp_path, "--tiny", "--batches", "2")
    assert done.returncode == 0, done.stderr
    record = json.loads(path.read_text())
    rows = record["rows"]
    ways = {"bf16 eager", "bf16 compiled", "fp32 eager"}
    assert {(r["protocol"], r["way"]) for r in rows} == {(p, w) for p in PROTOCOLS for w in ways}
    for r in rows:
        assert min(r["seconds"]) > 0 and r["flop"] > 1e5 and r["peak_gb"] is None and not r["checkpointing"]
        assert 0 < r["share_of_peak"] < 1 and r["clips_a_second"] > 0
    assert not record["gpu"] and all("fp32 eager" in stage["ways"] for stage in record["stages"])


def test_benchmark_leaves_what_a_gpu_measured(root, tmp_path):
    path = tmp_path / "results" / "bench" / "gpu.json"
    path.parent.mkdir(parents=True)
    path.write_text(before := json.dumps({"gpu": True, "stages": []}))
    done, _ = bench(root, tmp_path, "--tiny", "--limit", "0")
    assert done.returncode == 0 and done.stdout.count("past the limit of time") == 12, done.stderr
    assert path.read_text() == before


def test_benchmark_refuses(root, tmp_path):
    done, path = bench(root, tmp_path, "--batches", "many")
    assert (
        done.returncode == 2
        and done.stderr == "Batches are whole numbers by commas, not 'many'.\n"
        and not path.exists()
    )


@pytest.fixture
def gpu_bench(root, monkeypatch):
    "The benchmark as a module."
    monkeypatch.syspath_prepend(root / "bench")  # what the benchmarks share
    spec = importlib.util.spec_from_file_location("gpu", root / "bench" / "gpu.py")
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


def test_benchmark_measures_the_study_s_model(gpu_bench):
    "Its large size is ViCLIP-L."
    size = gpu_bench.SIZES["viclip_l"]
    assert size.config == LARGE and size.device == "cuda" and (size.batches[0], size.batches[-1]) == (4, 128)
    assert sum(p.numel() for p in ViCLIP(gpu_bench.TINY).parameters()) < 1e6


def test_what_does_not_fit_is_done_with_gradient_checkpointing(gpu_bench, monkeypatch):
    "Out of memory once: the same batch again, with less kept. Out of memory twice: it is said."
    steps = gpu_bench.Steps(gpu_bench.SIZES["tiny"], "published", gpu_bench.PEER)
    timed, asked = steps.timed, []

    def short_of_memory(batch, checkpointing):
        asked.append(checkpointing)
        if not checkpointing or batch > 2:
            raise torch.OutOfMemoryError
        return timed(batch, checkpointing)

    monkeypatch.setattr(steps, "timed", short_of_memory)
    row = steps.measured(2)
    assert row["checkpointing"] and row["seconds"] and asked == [False, True]
    assert not steps.measured(4)["seconds"] and asked == [False, True] * 2


# --- what a machine cannot do ---


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu_is_said_before_anything_is_loaded():
    from frames_matter.study.runner import run
    from frames_matter.study.spec import RunSpec

    spec = RunSpec(
        "internvid",
        "first_improvement",
        "viclip",
        "infonce",
        "uniform",
        "sound",
        0,
        20,
        2e-5,
        0.02,
        4,
        0.07,
        0.5,
        8,
        224,
        "/absent",
        "no data",
        "",
        device="cuda",
        precision="bf16",
    )
    for call in (lambda: run(spec), lambda: check_machine("cuda")):
        with pytest.raises(UserError, match="wants an NVIDIA GPU .* -o device=cpu -o precision=fp32"):
            call()


def test_accelerate_is_named_where_it_is_missing():
    "Only runs of several processes need it."
    code = (
        "import sys; sys.modules['accelerate'] = None\n"
        "import frames_matter.study.runner\n"
        "from frames_matter.model.compute import check_machine\n"
        "check_machine('cpu')\n"
        "try: check_machine('cpu', processes=2)\n"
        "except ValueError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (
        done.stdout.strip()
        == "Runs of several processes need the package accelerate; run `pip install 'frames_matter[scale]'`."
    ), done.stderr


def gpu_seen(_):
    time.sleep(0.2)
    return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize("visible, expected", [("3,5", ["3", "5"]), ("7", ["7", "7"])])
def test_each_worker_sees_its_own_gpu(monkeypatch, visible, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    spawn = get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn, initializer=take_gpu, initargs=(deal_gpus(spawn, 2),)) as pool:
        seen, end = {}, time.monotonic() + 60
        while len(seen) < 2 and time.monotonic() < end:
            seen |= dict(pool.map(gpu_seen, range(2)))  # until the second worker has started
        assert sorted(seen.values()) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_fit_on_a_gpu(precision):
    "On a GPU the loop learns, and its record says what it took."
    from frames_matter.model.compute import Clock
    from frames_matter.model.training import Pairs, fit

    torch.manual_seed(0)
    model = ViCLIP(ViCLIPConfig(32, 16, 64, 2, 1, 32, 4, 8, 50, 64, 1, 1)).cuda()
    torch.nn.init.normal_(model.vision_encoder.temporal_positional_embedding, std=0.02)
    pairs, clock = Pairs(torch.randn(8, 4, 3, 32, 32), torch.randn(8, 32, device="cuda")), Clock("cuda")
    head = CrossAttention(32).cuda()
    curve = fit(
        model, head, pairs, pairs, Training(epochs=30, learning_rate=1e-3, precision=precision), SOUND, clock=clock
    )["train_loss"]
    assert curve[-1] < 0.7 * curve[0] and clock.peak_memory > 0 and clock.seconds_per_step > 0
