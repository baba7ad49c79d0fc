"""ViCLIP-B/16 on a CPU: forward, training step and masked step, beside the same architecture in the original's form;
and bfloat16 beside float32.

    frames-matter bench model             about three minutes on two cores
    python bench/model.py --size nano     a small model, in seconds: proves the file

The original's form: patches by a convolution, tokens masked after they are embedded, torch's own multi-head attention,
every token through the last layer. It has the same weights, and must give the same features to 1e-4. Memory is the
peak of a process of its own, which does one thing in one way.
"""

import argparse
import functools
import json
import os
import time
from collections.abc import Callable

import torch
from _measure import OURS, in_own_process, in_turns, load, peak_gb, stage, write_record
from _script import run_script
from torch import Tensor, nn

from frames_matter.base.errors import UserError
from frames_matter.base.profiles import get_profile
from frames_matter.data.build import build_dataset
from frames_matter.data.dataset import VideoCaptionDataset
from frames_matter.metrics.retrieval import retrieval_metrics
from frames_matter.model.catalogue import LOSSES
from frames_matter.model.tokenizer import tokenizer_for
from frames_matter.model.training import encode_clips, pairwise_similarity
from frames_matter.model.viclip import ViCLIPConfig, VisionTower
from frames_matter.model.weights import load_viclip
from frames_matter.study.splits import encode_captions

ORIGINAL, BF16 = "the original's form", "in bfloat16"
MASKED, DROP_PATH, BATCH = 0.9, 0.1, 2
SIZES = {
    "b16": ViCLIPConfig(
        patch_size=16, vision_width=768, vision_layers=12, vision_heads=12, embed_dim=512, text_width=512, text_heads=8
    ),
    "nano": ViCLIPConfig(
        image_size=64, patch_size=16, vision_width=192, vision_layers=3, vision_heads=3, embed_dim=128, text_width=128,
        text_heads=2, text_layers=1,
    ),
}  # fmt: skip
ROUNDS = {"forward": 3, "masked step": 5, "step": 2}

# --- the original's form ---


class OriginalMLP(nn.Module):
    "Two layers with the quick GELU as it is written."

    def __init__(self, width: int):
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        return self.c_proj(x * torch.sigmoid(1.702 * x))


class OriginalBlock(nn.Module):
    "A layer over (N, B, W), with torch's multi-head attention."

    def __init__(self, width: int, heads: int, drop_path: float):
        super().__init__()
        self.attn, self.mlp = nn.MultiheadAttention(width, heads), OriginalMLP(width)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.drop_path = drop_path

    def drop(self, branch: Tensor) -> Tensor:
        if not self.training or not self.drop_path:
            return branch
        keep = 1 - self.drop_path
        return branch.div(keep) * branch.new_empty(1, branch.shape[1], 1).bernoulli_(keep)

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.drop(self.attn(y, y, y, need_weights=False)[0])
        return x + self.drop(self.mlp(self.ln_2(x)))


class OriginalTower(nn.Module):
    "The video tower in the original's form, its parameters by the same names."

    def __init__(self, tower: VisionTower, config: ViCLIPConfig, drop_path: float):
        super().__init__()
        width, layers, patch = config.vision_width, config.vision_layers, (1, config.patch_size, config.patch_size)
        drops = [drop_path * i / max(1, layers - 1) for i in range(layers)]
        self.conv1 = nn.Conv3d(3, width, patch, patch, bias=False)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(OriginalBlock(width, config.vision_heads, drop) for drop in drops)
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        for name in ("class_embedding", "positional_embedding", "temporal_positional_embedding", "proj"):
            self.register_parameter(name, nn.Parameter(torch.empty_like(getattr(tower, name))))
        self.load_state_dict(tower.state_dict(), assign=True)

    def masked(self, x: Tensor, mask_ratio: float) -> Tensor:
        "(B, N, W) without a random share of the tokens."
        B, N, W = x.shape
        gone = torch.zeros(B, N, dtype=torch.bool)
        gone.scatter_(1, torch.rand(B, N).argsort(1)[:, : int(mask_ratio * N)], True)
        return x[~gone].reshape(B, -1, W)

    def forward(self, video: Tensor, mask_ratio: float = 0.0) -> Tensor:
        "(B, T, C, H, W) to (B, D)."
        x = self.conv1(video.transpose(1, 2))  # (B, W, T, h, w)
        B, W, T = x.shape[:3]
        x = x.permute(0, 2, 3, 4, 1).reshape(B * T, -1, W)
        first = self.class_embedding.expand(B * T, 1, W)
        x = torch.cat([first, x], 1) + self.positional_embedding
        first, x = x[:B, :1], x[:, 1:].reshape(B, T, -1, W)
        x = (x + self.temporal_positional_embedding[:, :, None]).reshape(B, -1, W)
        if mask_ratio:
            x = self.masked(x, mask_ratio)
        x = self.ln_pre(torch.cat([first, x], 1)).transpose(0, 1)  # (N, B, W)
        for block in self.transformer.resblocks:
            x = block(x)
        return self.ln_post(x[0]) @ self.proj


# --- what is timed ---


def tower_of(size: str, way: str) -> nn.Module:
    "The video tower, with weights that follow from a seed."
    torch.manual_seed(0)
    config = SIZES[size]
    tower = VisionTower(config, DROP_PATH)
    nn.init.normal_(tower.temporal_positional_embedding, std=0.02)  # zeros in a new model
    if way != ORIGINAL:
        return tower
    with torch.device("meta"):  # it takes the other's weights as they are, so that memory holds them once
        return OriginalTower(tower, config, DROP_PATH)


def inputs_of(size: str) -> tuple[Tensor, Tensor]:
    "Clips (B, T, C, H, W) and features of captions (B, D), of noise."
    config, generator = SIZES[size], torch.Generator().manual_seed(1)
    video = torch.randn(BATCH, config.num_frames, 3, config.image_size, config.image_size, generator=generator)
    return video, torch.randn(BATCH, config.embed_dim, generator=generator)


@torch.no_grad()
def forward(tower: nn.Module, video: Tensor, text: Tensor) -> Tensor:
    return tower.eval()(video)


def step(tower: nn.Module, video: Tensor, text: Tensor, mask_ratio: float = 0.0) -> None:
    "Forward, InfoNCE, backward, and the optimizer."
    optimizer = torch.optim.AdamW(tower.parameters(), lr=2e-5, weight_decay=0.02, fused=True)
    features = tower.train()(video, mask_ratio)
    LOSSES["infonce"](pairwise_similarity(None, features, text), temperature=0.07).backward()
    optimizer.step()
    optimizer.zero_grad()


STEPS = {"forward": forward, "masked step": functools.partial(step, mask_ratio=MASKED), "step": step}


def assert_alike(size: str) -> float:
    "How far the features of the two forms are apart at most; an error beyond 1e-4."
    ours, original = (forward(tower_of(size, way), *inputs_of(size)) for way in (OURS, ORIGINAL))
    apart = float((ours - original).abs().max())
    if apart > 1e-4:
        raise UserError(f"The two forms give features {apart:.1e} apart: nothing to compare.")
    return apart


def in_bf16(do: Callable[[], object]) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        do()


def stage_of(what: str, size: str) -> dict:
    "Seconds of one step by each way, in turns, once it has been done; and the peak memory of each."
    towers, inputs = {way: tower_of(size, way) for way in (OURS, ORIGINAL)}, inputs_of(size)
    ways = {way: functools.partial(STEPS[what], tower, *inputs) for way, tower in towers.items()}
    if what == "forward":
        ways[BF16] = functools.partial(in_bf16, ways[OURS])
    if what != "step":  # which is too long to be done for nothing
        for do in ways.values():
            do()
    measured = stage(f"ViCLIP-{size}, batch {BATCH}, {what}", in_turns(ways, ROUNDS[what]))
    for way in towers:
        measured["ways"][way]["peak_gb"] = in_own_process(__file__, "--size", size, "--only", what, "--way", way)
    return measured


# --- bfloat16 ---


def bf16_instructions() -> list[str]:
    "What this processor has for bfloat16, as torch sees it."
    return [name for name, there in torch.cpu.get_capabilities().items() if "bf16" in name and there]


def bf16_cosines() -> dict:
    "How far cosines of viclip-nano in bfloat16 are from those in float32, on the clips of mini's pool."
    profile = get_profile("mini")
    build_dataset(profile, progress=False)
    clips = VideoCaptionDataset(profile, "pool", k=profile.k, size=profile.image_size)
    model, video = load_viclip("nano"), torch.stack([item["video"] for item in clips])
    text = encode_captions(model, tokenizer_for(profile), clips.rows.caption)
    seconds, scores = {}, {}
    for precision in ("fp32", "bf16"):
        start = time.perf_counter()
        scores[precision] = pairwise_similarity(None, encode_clips(model, video, precision=precision), text)
        seconds[precision] = time.perf_counter() - start
    apart = (scores["fp32"] - scores["bf16"]).abs()
    recalls = {precision: retrieval_metrics(score.numpy())["t2v_r1"] for precision, score in scores.items()}
    found = {"clips": len(clips), "greatest": float(apart.max()), "mean": float(apart.mean())}
    return found | {"t2v_r1": recalls, "seconds": seconds, "instructions": bf16_instructions()}


def said_peaks(stages: list[dict]) -> str:
    "The peak memory of each stage by both ways, in words."
    peaks = []
    for of in stages:
        ours, original = (of["ways"][way]["peak_gb"] for way in (OURS, ORIGINAL))
        peaks.append(f"{of['stage'].rpartition(', ')[2]} {ours:.2f} GB, {ORIGINAL} {original:.2f}")
    return f"peak memory: {'; '.join(peaks)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", choices=SIZES, default="b16")
    parser.add_argument("--only", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    args, before = parser.parse_args(), load()
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    if args.only:
        STEPS[args.only](tower_of(args.size, args.way), *inputs_of(args.size))
        return print(json.dumps(peak_gb()))
    apart = assert_alike(args.size)
    stages = [stage_of(what, args.size) for what in STEPS]
    more = dict(features_apart=apart, cosines_in_bf16=bf16_cosines(), keep=args.size == "b16")
    what = f"the video tower, {torch.get_num_threads()} threads, {MASKED:.0%} masked where masked; {said_peaks(stages)}"
    write_record("model", what, stages, ("torch",), before, **more)


if __name__ == "__main__":
    run_script(main)
