"""Training steps of ViCLIP-L/14 on a GPU, under both protocols: seconds, clips a second, memory, and how near to the
rate that the GPU multiplies matrices at.

    frames-matter bench gpu              where there is a CUDA GPU: ViCLIP-L, about ten minutes; elsewhere a tiny
                                         model, in seconds, which proves this file and measures nothing of interest
    python bench/gpu.py --tiny           the tiny model anywhere
    python bench/gpu.py --batches 4,64 --limit 300

It wants torch and the package alone, no reader of videos. Weights and clips are random, as neither speed nor memory
depends on them; the step is the fit loop's, with cross-attention, H-NAC and the profile internvid's optimizer, in
bfloat16 as it comes and compiled, beside float32 as it comes. What does not fit into the memory is done again with
gradient checkpointing. The operations of a step are those of its matrix products, counted once, whatever is computed
again; the peak is what one large product reaches in the same precision, in the same run. Kernels are the fastest that
there are; runs of the study ask for those that give the same numbers twice.

Rows are written as they are measured, so that a run that is broken off loses none; past the limit no row is begun.
"""

import argparse
import functools
import gc
import itertools
import json
import statistics
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from _measure import FOLDER, OURS, keep_record, load, record_of, stage
from _script import run_script
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from frames_matter.base.errors import UserError
from frames_matter.base.files import atomic_write
from frames_matter.base.profiles import get_profile
from frames_matter.model.compute import Clock, check_machine
from frames_matter.model.heads import CrossAttention
from frames_matter.model.protocols import PROTOCOLS
from frames_matter.model.training import Step, Training, trainable_parameters
from frames_matter.model.viclip import ViCLIP, ViCLIPConfig

PROFILE = get_profile("internvid")
TINY = ViCLIPConfig(
    image_size=32,
    patch_size=16,
    vision_width=64,
    vision_layers=3,
    vision_heads=1,
    embed_dim=32,
    num_frames=8,
    context_length=8,
    vocab_size=50,
    text_width=64,
    text_heads=1,
    text_layers=1,
)


class Size(NamedTuple):
    "What is measured where."

    config: ViCLIPConfig
    device: str
    batches: tuple[int, ...]
    matrix: int  # of the product that tells the peak
    seconds: float  # of steps that are timed, at least one of them
    backend: str  # of torch.compile


SIZES = {
    "viclip_l": Size(ViCLIPConfig(), "cuda", (4, 16, 64, 128), matrix=8192, seconds=2.0, backend="inductor"),
    "tiny": Size(TINY, "cpu", (2, 4), matrix=512, seconds=0.05, backend="aot_eager"),
}


class Way(NamedTuple):
    "How a step is computed."

    precision: str
    compiled: bool

    def __str__(self) -> str:
        return f"{self.precision} {'compiled' if self.compiled else 'eager'}"


PEER = Way("fp32", False)
WAYS = (Way("bf16", False), PEER, Way("bf16", True))  # to compile takes longest


def training(precision: str) -> Training:
    "What the profile internvid tells the optimizer."
    rates = dict(learning_rate=PROFILE.learning_rate, weight_decay=PROFILE.weight_decay)
    return Training(loss="hnac", precision=precision, **rates)


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


@functools.cache
def flops_per_step(config: ViCLIPConfig, protocol: str, batch: int) -> int:
    "Operations of the matrix products of one step, counted on the meta device, which computes shapes alone."
    side = config.image_size
    with torch.device("meta"):
        model, head = ViCLIP(config).train(), CrossAttention(config.embed_dim)
        video, text = torch.empty(batch, config.num_frames, 3, side, side), torch.empty(batch, config.embed_dim)
    trainable_parameters(model, head, PROTOCOLS[protocol])
    with FlopCounterMode(display=False) as count:
        Step(model, head, training("fp32"), PROTOCOLS[protocol])(video, text).backward()
    return count.get_total_flops()


class Steps:
    "Training steps of one model by one way, on noise, of as many pairs as are asked for."

    def __init__(self, size: Size, protocol: str, way: Way):
        self.size, self.skip, how = size, 2 if way.compiled else 1, training(way.precision)
        torch.manual_seed(0)
        with torch.device(size.device):
            model, head = ViCLIP(size.config), CrossAttention(size.config.embed_dim)
        nn.init.normal_(model.vision_encoder.temporal_positional_embedding, std=0.02)  # zeros in a new model
        if way.compiled:
            torch.compiler.reset()
            model.vision_encoder.compile(backend=size.backend)
        parameters = trainable_parameters(model, head, PROTOCOLS[protocol]).values()
        rates = dict(lr=how.learning_rate, weight_decay=how.weight_decay)
        self.step = Step(model, head, how, PROTOCOLS[protocol]).train()
        self.optimizer = torch.optim.AdamW(parameters, fused=True, **rates)

    def timed(self, batch: int, checkpointing: bool) -> Clock:
        "So many seconds of them, after one that warms up, or two where the first is compiled."
        config, device, clock = self.size.config, self.size.device, Clock(self.size.device)
        self.step.model.checkpoint_gradients(checkpointing)
        video = torch.randn(batch, config.num_frames, 3, config.image_size, config.image_size, device=device)
        text = torch.randn(batch, config.embed_dim, device=device)
        while len(clock.epochs) <= self.skip or sum(s for _, s in clock.epochs[self.skip :]) < self.size.seconds:
            with clock.epoch(1):
                self.optimizer.zero_grad()
                loss = self.step(video, text)
                loss.backward()
                self.optimizer.step()
        if not loss.isfinite():
            raise UserError("The loss of a step is not finite; it was not recorded.")
        return clock

    def measured(self, batch: int) -> dict:
        "What a step takes, kept whole in memory where it fits, else with gradient checkpointing."
        for checkpointing in (False, True):
            try:
                clock = self.timed(batch, checkpointing)
            except torch.OutOfMemoryError:
                clock = None  # what the step held is free once its error is gone
            if clock is None:
                self.optimizer.zero_grad()
                free(self.size.device)
                continue
            seconds = [of for _, of in clock.epochs[self.skip :]]
            memory = clock.peak_memory and clock.peak_memory / 1e9
            return dict(seconds=seconds, first_step=clock.epochs[0][1], peak_gb=memory, checkpointing=checkpointing)
        return {"seconds": [], "why": "more than the memory, with gradient checkpointing too"}


def free(device: str) -> None:
    "What a measurement took is given back."
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def with_rates(row: dict, size: Size, peaks: dict[str, float | None]) -> dict:
    "A row with its clips a second, and its share of what the GPU multiplies."
    if not row["seconds"]:
        return row
    median, peak = statistics.median(row["seconds"]), peaks[row["way"].split()[0]]
    flops = flops_per_step(size.config, row["protocol"], row["batch"])
    share = peak and flops / median / peak
    return row | {"clips_a_second": row["batch"] / median, "flop": flops, "share_of_peak": share}


def rows_of(size: Size, batches: list[int], limit: float) -> Iterator[dict]:
    "Every way, protocol and batch, until the limit is past; what is left then is a row without seconds."
    start = time.monotonic()
    for way, protocol in itertools.product(WAYS, sorted(PROTOCOLS, reverse=True)):  # that of all tokens first
        steps = None
        for batch in batches:
            row = {"protocol": protocol, "batch": batch, "way": str(way)}
            if time.monotonic() - start > limit:
                yield row | {"seconds": [], "why": "past the limit of time"}
                continue
            steps = steps or Steps(size, protocol, way)
            yield row | steps.measured(batch)
        del steps
        free(size.device)


def show(row: dict) -> None:
    "A line of the table."
    told = f"{row['protocol']:9}  batch {row['batch']:3}  {row['way']:13}"
    if not row["seconds"]:
        return print(f"{told}  {row['why']}", flush=True)
    median = statistics.median(row["seconds"])
    memory = "        –" if row["peak_gb"] is None else f"{row['peak_gb']:6.1f} GB"
    share = "     –" if row["share_of_peak"] is None else f"{row['share_of_peak']:6.1%}"
    again = "  with gradient checkpointing" if row["checkpointing"] else ""
    print(
        f"{told}  {1000 * median:9.1f} ms  {row['clips_a_second']:7.1f} clips/s  {memory}  {share}{again}", flush=True
    )


def stages_of(rows: list[dict], name: str) -> list[dict]:
    "Of every protocol and batch the best way, with float32 as it comes beside it."
    stages, cases = [], {(row["protocol"], row["batch"]) for row in rows}
    for protocol, batch in sorted(cases):
        of = {row["way"]: row["seconds"] for row in rows if (row["protocol"], row["batch"]) == (protocol, batch)}
        taken = {way: seconds for way, seconds in of.items() if seconds}
        ours = [way for way in taken if way != str(PEER)]
        if ours:
            best = min(ours, key=lambda way: statistics.median(taken[way]))
            ways = {OURS: taken.pop(best)} | taken
            stages.append(stage(f"{name}, a step of {batch}, {protocol}, {best}", ways))
    return stages


def is_of_gpu() -> bool:
    "Whether the record there is was made on a GPU: a tiny model does not take its place."
    path = FOLDER / "gpu.json"
    return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["gpu"]


def measure(name: str, batches: list[int], limit: float, before: float) -> None:
    "Show and keep every row as it comes."
    size, rows, on_gpu = SIZES[name], [], SIZES[name].device == "cuda"
    check_machine(size.device, "bf16")
    keep = on_gpu or not is_of_gpu()
    peaks: dict[str, float | None] = {of: peak_flops(size.device, of, size.matrix) for of in ("fp32", "bf16")}
    where = torch.cuda.get_device_name() if on_gpu else f"a CPU with {torch.get_num_threads()} threads"
    what = f"training steps of {name} on {where}, all tokens (sound) or a tenth of them (published)"
    for row in rows_of(size, batches or list(size.batches), limit):
        rows.append(with_rates(row, size, peaks))
        show(rows[-1])
        more = dict(gpu=on_gpu, peak_flop_per_second=peaks, rows=rows)
        record = record_of("gpu", what, stages_of(rows, name), ("torch",), before, **more)
        if keep:
            atomic_write(FOLDER / "gpu.json", json.dumps(record, indent=1) + "\n")
    if keep:
        keep_record("gpu", record)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--tiny", action="store_true", help="the tiny model on the CPU")
    parser.add_argument("--batches", default="", help="pairs a step, by commas")
    parser.add_argument("--limit", type=float, default=600, help="seconds after which no row is begun")
    args, before = parser.parse_args(), load()
    name = "viclip_l" if torch.cuda.is_available() and not args.tiny else "tiny"
    if name == "tiny" and not args.tiny:
        print("No CUDA GPU here: a tiny model stands in, which proves the code and measures nothing of interest.")
    try:
        batches = [int(n) for n in args.batches.split(",") if n]
    except ValueError as e:
        raise UserError(f"Batches are whole numbers by commas, not {args.batches!r}.") from e
    measure(name, batches, args.limit, before)


if __name__ == "__main__":
    run_script(main)
