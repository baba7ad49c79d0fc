"""One lesson-sized fine-tuning of ViCLIP-L under both protocols on a GPU: time per step, peak memory, and the share of the GPU's peak that is reached.

    frames-matter bench finetune       ViCLIP-L where there is a CUDA GPU; without one a tiny model, which proves this file and measures nothing of interest
    python bench/finetune.py --tiny    the tiny model anywhere

Weights and clips are random, as neither speed nor memory depends on them; sizes, batch, optimizer, loop and precision are those of the profile internvid. The floating-point operations of
a step are counted from its matrix products, forward and backward; the peak is what one large matrix product reaches in the same precision, on the same device, in the same run.
"""

import gc
import json
import os
import platform
import sys
from dataclasses import asdict, replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from frames_matter.base.errors import UserError
from frames_matter.base.files import atomic_write, project_root
from frames_matter.base.profiles import get_profile
from frames_matter.base.seeds import seed_everything
from frames_matter.model.compute import Clock, check_machine
from frames_matter.model.heads import CrossAttention
from frames_matter.model.training import PROTOCOLS, Pairs, Step, Training, fit, trainable_parameters
from frames_matter.model.viclip import ViCLIP, ViCLIPConfig

P = get_profile("internvid")
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
SIZES = {
    "viclip_l": dict(
        config=ViCLIPConfig(),
        device="cuda",
        train=40,
        alignment=5,
        matrix=8192,
        epochs={"bf16": P.epochs_first, "fp32": 2},
    ),  # fp32 as the peer: a few steps tell
    "tiny": dict(config=TINY, device="cpu", train=8, alignment=5, matrix=512, epochs={"fp32": 3, "bf16": 2}),
}


def peak_flops(device, precision, n):  # floating-point operations a second
    "What a product of two n x n matrices reaches: the best of 10, after a warm-up."
    a, b = torch.randn(2, n, n, device=device)
    if precision == "bf16":
        a, b = a.bfloat16(), b.bfloat16()
    clock = Clock(device)
    for _ in range(13):
        with clock.epoch(1):
            a @ b
    return 2 * n**3 / min(seconds for _, seconds in clock.epochs[3:])


def flops_per_step(config, how, protocol):
    "Operations of the matrix products of one step, counted on the meta device, which computes shapes alone."
    with torch.device("meta"):
        model, head = ViCLIP(config).train(), CrossAttention(config.embed_dim)
        video, text = (
            torch.empty(how.batch_size, config.num_frames, 3, config.image_size, config.image_size),
            torch.empty(how.batch_size, config.embed_dim),
        )
    trainable_parameters(model, head, protocol)
    with FlopCounterMode(display=False) as count:
        Step(model, head, replace(how, precision="fp32"), protocol)(video, text).backward()
    return count.get_total_flops()


def fine_tune(config, device, n_train, n_alignment, how, protocol):  # -> curves, clock
    "One run of the first improvement's cell with cross-attention and H-NAC, on noise."
    seed_everything(how.seed)
    with torch.device(device):
        model, head = ViCLIP(config), CrossAttention(config.embed_dim)
    torch.nn.init.normal_(model.vision_encoder.temporal_positional_embedding, std=0.02)  # zeros in a new model
    pairs = lambda n: Pairs(
        torch.randn(n, config.num_frames, 3, config.image_size, config.image_size),
        torch.randn(n, config.embed_dim, device=device),
    )
    clock = Clock(device)
    return fit(model, head, pairs(n_train), pairs(n_alignment), how, protocol, clock=clock), clock


def measure(size):  # -> record
    s, peaks, rows = SIZES[size], {}, []
    precisions = [
        p
        for p in s["epochs"]
        if s["device"] == "cpu" or p == "fp32" or torch.cuda.is_bf16_supported(including_emulation=False)
    ]
    for precision in precisions:
        if (s["device"], precision) != ("cpu", "bf16"):
            peaks[precision] = peak_flops(
                s["device"], precision, s["matrix"]
            )  # emulated, its product is slower than what surrounds it
        for name, protocol in PROTOCOLS.items():
            how = Training(
                loss="hnac",
                epochs=s["epochs"][precision],
                batch_size=P.batch_size,
                learning_rate=P.learning_rate,
                weight_decay=P.weight_decay,
                precision=precision,
            )
            curves, clock = fine_tune(s["config"], s["device"], s["train"], s["alignment"], how, protocol)
            flops, seconds = flops_per_step(s["config"], how, protocol), clock.seconds_per_step
            fraction = flops / seconds / peaks[precision] if precision in peaks else None
            if not all(map(torch.isfinite, map(torch.tensor, curves["train_loss"]))):
                raise UserError(f"The loss under {name} in {precision} is not finite; nothing was recorded.")
            rows.append(
                {
                    "protocol": name,
                    "precision": precision,
                    "steps": sum(steps for steps, _ in clock.epochs),
                    "seconds_per_step": seconds,
                    "first_epoch_seconds_per_step": clock.epochs[0][1] / clock.epochs[0][0],
                    "peak_memory_bytes": clock.peak_memory,
                    "flop_per_step": flops,
                    "flop_per_second": flops / seconds,
                    "fraction_of_peak": fraction,
                }
            )
            print(
                f"{size:8} {name:9} {precision}: {1000 * seconds:8.1f} ms a step, {'no peak' if fraction is None else f'{fraction:6.1%} of the peak'}, "
                f"{'memory not measured' if clock.peak_memory is None else f'{clock.peak_memory / 1e9:.1f} GB at most'}",
                flush=True,
            )
            gc.collect()
            if s["device"] == "cuda":
                torch.cuda.empty_cache()
    return {
        "what": f"cross-attention, H-NAC, {s['train']} clips of {s['config'].num_frames} frames, batch {P.batch_size}, deterministic kernels where there are any",
        "config": asdict(s["config"]),
        "rows": rows,
        "peak_flop_per_second": peaks,
        "peak_is": f"the best of 10 products of {s['matrix']} x {s['matrix']} matrices in this run",
        "device": torch.cuda.get_device_name() if s["device"] == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def not_measured(sizes):  # of the record
    "What a reader might look for and not find."
    missing = ["several GPUs: how the time of a step falls with their number"]
    if "viclip_l" not in sizes:
        missing = [
            "ViCLIP-L on a GPU: time per step, peak memory and share of peak; this file was made without a CUDA GPU, and the tiny model's numbers on a CPU say nothing about it",
            "bfloat16 on tensor cores: on a CPU autocast runs, slowly, to prove the code",
        ] + missing
    if "tiny" in sizes:
        missing.append("peak memory of the tiny model: only a GPU's allocator counts it")
    return missing


def main(arguments):
    if unknown := set(arguments) - {"--tiny"}:
        raise UserError(f"Unknown argument {sorted(unknown)[0]!r}; the one there is: --tiny.")
    size = "tiny" if arguments or not torch.cuda.is_available() else "viclip_l"
    if size == "tiny" and not arguments:
        print(
            "No CUDA GPU here: a tiny model stands in, to prove the code. Run this on a machine with a GPU to measure ViCLIP-L."
        )
    check_machine(SIZES[size]["device"])
    path = project_root() / "results" / "bench" / "finetune.json"
    sizes = json.loads(path.read_text())["sizes"] if path.is_file() else {}  # what was measured elsewhere stays
    try:
        sizes[size] = measure(size)
    except torch.OutOfMemoryError as e:
        raise UserError(f"The GPU's memory does not hold this fine-tuning: {str(e).splitlines()[0]}") from e
    record = {"command": "frames-matter bench finetune", "not_measured": not_measured(sizes), "sizes": sizes}
    atomic_write(path, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as e:
        sys.exit(print(e, file=sys.stderr) or 2)
