"""One lesson-sized fine-tuning of ViCLIP-L on a GPU, under both protocols: what a step takes, against the GPU's peak.

    frames-matter bench finetune       ViCLIP-L where there is a CUDA GPU; without one a tiny model, which proves this
                                       file and measures nothing of interest
    python bench/finetune.py --tiny    the tiny model anywhere

Measured are the time per step, the peak memory, and the share of the peak that is reached. Weights and clips are
random, as neither speed nor memory depends on them; sizes, batch, optimizer, loop and precision are those of the
profile internvid. The floating-point operations of a step are counted from its matrix products, forward and
backward; the peak is what one large matrix product reaches in the same precision, on the same device, in the same
run.
"""

import gc
import json
import os
import platform
import sys
from dataclasses import asdict, replace

import torch
from _script import run_script
from torch.utils.flop_counter import FlopCounterMode

from frames_matter.base.errors import UserError
from frames_matter.base.files import atomic_write, project_root
from frames_matter.base.profiles import get_profile
from frames_matter.base.seeds import seed_everything
from frames_matter.model.compute import Clock, check_machine
from frames_matter.model.heads import CrossAttention
from frames_matter.model.protocols import PROTOCOLS, Protocol
from frames_matter.model.training import Pairs, Step, Training, fit, trainable_parameters
from frames_matter.model.viclip import ViCLIP, ViCLIPConfig

PROFILE = get_profile("internvid")
TINY = ViCLIPConfig(
    image_size=32,
    patch_size=16,
    vision_width=64,
    vision_layers=2,
    vision_heads=1,
    embed_dim=32,
    num_frames=8,
    context_length=8,
    vocab_size=50,
    text_width=64,
    text_heads=1,
    text_layers=1,
)
RESULT = project_root() / "results" / "bench" / "finetune.json"
SIZES = {
    "viclip_l": dict(
        config=ViCLIPConfig(),
        device="cuda",
        train=40,
        alignment=5,
        matrix=8192,
        epochs={"bf16": PROFILE.epochs_first, "fp32": 2},  # fp32 as the peer: a few steps tell
    ),
    "tiny": dict(config=TINY, device="cpu", train=8, alignment=5, matrix=512, epochs={"fp32": 3, "bf16": 2}),
}


def peak_flops(device: str, precision: str, n: int) -> float:
    "Operations a second that a product of two n x n matrices reaches: the best of 10, after a warm-up."
    a, b = torch.randn(2, n, n, device=device)
    if precision == "bf16":
        a, b = a.bfloat16(), b.bfloat16()
    clock = Clock(device)
    for _ in range(13):
        with clock.epoch(1):
            a @ b
    return 2 * n**3 / min(seconds for _, seconds in clock.epochs[3:])


def flops_per_step(config: ViCLIPConfig, how: Training, protocol: Protocol) -> int:
    "Operations of the matrix products of one step, counted on the meta device, which computes shapes alone."
    side = config.image_size
    with torch.device("meta"):
        model, head = ViCLIP(config).train(), CrossAttention(config.embed_dim)
        video = torch.empty(how.batch_size, config.num_frames, 3, side, side)
        text = torch.empty(how.batch_size, config.embed_dim)
    trainable_parameters(model, head, protocol)
    with FlopCounterMode(display=False) as count:
        Step(model, head, replace(how, precision="fp32"), protocol)(video, text).backward()
    return count.get_total_flops()


def random_pairs(config: ViCLIPConfig, n: int, device: str) -> Pairs:
    "So many clips and caption features of noise."
    video = torch.randn(n, config.num_frames, 3, config.image_size, config.image_size)
    return Pairs(video, torch.randn(n, config.embed_dim, device=device))


def fine_tune(size: dict, how: Training, protocol: Protocol) -> tuple[dict, Clock]:
    "Curves and clock of one run of the first improvement's cell with cross-attention and H-NAC, on noise."
    config, device = size["config"], size["device"]
    seed_everything(how.seed)
    with torch.device(device):
        model, head = ViCLIP(config), CrossAttention(config.embed_dim)
    torch.nn.init.normal_(model.vision_encoder.temporal_positional_embedding, std=0.02)  # zeros in a new model
    train, alignment = (random_pairs(config, size[part], device) for part in ("train", "alignment"))
    clock = Clock(device)
    return fit(model, head, train, alignment, how, protocol, clock=clock), clock


def precisions_of(size: dict) -> list[str]:
    "The precisions that this machine has, or can emulate on a CPU."
    if size["device"] == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False):
        return list(size["epochs"])
    return [precision for precision in size["epochs"] if precision == "fp32"]


def measure_run(size: dict, protocol: str, precision: str, peak: float | None) -> dict:
    "What the steps of one run took."
    how = Training(
        loss="hnac",
        epochs=size["epochs"][precision],
        batch_size=PROFILE.batch_size,
        learning_rate=PROFILE.learning_rate,
        weight_decay=PROFILE.weight_decay,
        precision=precision,
    )
    curves, clock = fine_tune(size, how, PROTOCOLS[protocol])
    if not torch.tensor(curves["train_loss"]).isfinite().all():
        raise UserError(f"The loss under {protocol} in {precision} is not finite; nothing was recorded.")
    flops, seconds = flops_per_step(size["config"], how, PROTOCOLS[protocol]), clock.seconds_per_step
    first_steps, first_seconds = clock.epochs[0]
    return {
        "protocol": protocol,
        "precision": precision,
        "steps": sum(steps for steps, _ in clock.epochs),
        "seconds_per_step": seconds,
        "first_epoch_seconds_per_step": first_seconds / first_steps,
        "peak_memory_bytes": clock.peak_memory,
        "flop_per_step": flops,
        "flop_per_second": flops / seconds,
        "fraction_of_peak": None if peak is None else flops / seconds / peak,
    }


def show(name: str, row: dict) -> None:
    "Print what a run took."
    fraction, memory = row["fraction_of_peak"], row["peak_memory_bytes"]
    of_peak = "no peak" if fraction is None else f"{fraction:6.1%} of the peak"
    at_most = "memory not measured" if memory is None else f"{memory / 1e9:.1f} GB at most"
    step = f"{1000 * row['seconds_per_step']:8.1f} ms a step"
    print(f"{name:8} {row['protocol']:9} {row['precision']}: {step}, {of_peak}, {at_most}", flush=True)


def measure(name: str) -> dict:
    "The record of one size: every precision under every protocol."
    size, peaks, rows = SIZES[name], {}, []
    for precision in precisions_of(size):
        if (size["device"], precision) != ("cpu", "bf16"):  # emulated, its product is slower than what surrounds it
            peaks[precision] = peak_flops(size["device"], precision, size["matrix"])
        for protocol in PROTOCOLS:
            rows.append(measure_run(size, protocol, precision, peaks.get(precision)))
            show(name, rows[-1])
            gc.collect()
            if size["device"] == "cuda":
                torch.cuda.empty_cache()
    clips = f"{size['train']} clips of {size['config'].num_frames} frames, batch {PROFILE.batch_size}"
    on_cpu = f"CPU, {torch.get_num_threads()} threads"
    return {
        "what": f"cross-attention, H-NAC, {clips}, deterministic kernels where there are any",
        "config": asdict(size["config"]),
        "rows": rows,
        "peak_flop_per_second": peaks,
        "peak_is": f"the best of 10 products of {size['matrix']} x {size['matrix']} matrices in this run",
        "device": torch.cuda.get_device_name() if size["device"] == "cuda" else on_cpu,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def not_measured(sizes: dict) -> list[str]:
    "What a reader of the record might look for and not find."
    missing = ["several GPUs: how the time of a step falls with their number"]
    if "viclip_l" not in sizes:
        missing = [
            "ViCLIP-L on a GPU: time per step, peak memory and share of peak; "
            "this file was made without a CUDA GPU, and the tiny model's numbers on a CPU say nothing about it",
            "bfloat16 on tensor cores: on a CPU autocast runs, slowly, to prove the code",
        ] + missing
    if "tiny" in sizes:
        missing.append("peak memory of the tiny model: only a GPU's allocator counts it")
    return missing


def main(arguments: list[str]) -> None:
    "Measure one size and write it into the record; what was measured elsewhere stays."
    if unknown := set(arguments) - {"--tiny"}:
        raise UserError(f"Unknown argument {sorted(unknown)[0]!r}; the one there is: --tiny.")
    name = "tiny" if arguments or not torch.cuda.is_available() else "viclip_l"
    if name == "tiny" and not arguments:
        print(
            "No CUDA GPU here: a tiny model stands in, to prove the code. "
            "Run this on a machine with a GPU to measure ViCLIP-L."
        )
    check_machine(SIZES[name]["device"])
    sizes = json.loads(RESULT.read_text())["sizes"] if RESULT.is_file() else {}
    try:
        sizes[name] = measure(name)
    except torch.OutOfMemoryError as e:
        raise UserError(f"The GPU's memory does not hold this fine-tuning: {str(e).splitlines()[0]}") from e
    record = {"command": "frames-matter bench finetune", "not_measured": not_measured(sizes), "sizes": sizes}
    atomic_write(RESULT, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    run_script(main, sys.argv[1:])
