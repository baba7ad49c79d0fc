"""Every caption with every clip through the study's fusion transformer: all pairs at once, beside torch's encoder as it
comes, and beside the matrix products alone that a pair needs.

    frames-matter bench pairs
"""

import os

import torch
from _measure import OURS, in_turns, load, stage, write_record
from _script import run_script

from frames_matter.base.errors import UserError
from frames_matter.model.heads import FusionTransformer
from frames_matter.model.training import pairwise_similarity

CLIPS, ROUNDS, PAIRS = 240, 5, 720
WIDTHS = {128: CLIPS, 768: 48}  # viclip-nano's and ViCLIP-L's, and how many clips and captions


class PlainEncoder(torch.nn.Module):
    "The same encoder, asked as it comes."

    def __init__(self, fusion: FusionTransformer):
        super().__init__()
        self.fusion = fusion

    def forward(self, video: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.fusion(video, text)


def products_alone(fusion: FusionTransformer, pairs: int) -> None:
    "What each layer multiplies for so many pairs, some at a time; the first layer's projections are of clips alone."
    layers = fusion.encoder.layers
    tokens = torch.ones(2 * PAIRS, layers[0].linear1.in_features)
    for _ in range(0, pairs, PAIRS):
        for number, layer in enumerate(layers):
            if number:
                tokens @ layer.self_attn.in_proj_weight.T
            layer.self_attn.out_proj(tokens)
            layer.linear2(layer.linear1(tokens))


def measured(width: int, n: int) -> dict:
    torch.manual_seed(0)
    fusion = FusionTransformer(width).eval()
    video, text = torch.randn(n, width), torch.randn(n, width)
    plain = PlainEncoder(fusion)
    ways = {
        OURS: lambda: pairwise_similarity(fusion, video, text),
        "torch's encoder": lambda: pairwise_similarity(plain, video, text),
        "products": lambda: products_alone(fusion, n * n),
    }
    with torch.no_grad():
        if not torch.allclose(ways[OURS](), ways["torch's encoder"](), atol=1e-5):
            raise UserError("The two ways give other scores: nothing to compare.")
        times = in_turns(ways, ROUNDS)
    limit = {"its matrix products alone": times.pop("products")}
    return stage(f"{n} x {n} pairs through fusion, width {width}", times, limit)


def main() -> None:
    before = load()
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    stages = [measured(width, n) for width, n in WIDTHS.items()]
    what = f"{torch.get_num_threads()} threads, float32, {ROUNDS} rounds in turns"
    write_record("pairs", what, stages, ("torch",), before)


if __name__ == "__main__":
    run_script(main)
