"Sizes of the published ViCLIP-B and ViCLIP-L, and the names and shapes of their checkpoints' tensors."

import json
from pathlib import Path


def published_shapes(golden: Path, name: str) -> dict:
    "Every tensor's shape by its name, of 'b' or 'l'; the file writes what all blocks of a tower have once, with a *."
    shapes = {}
    for pattern, entry in json.loads((golden / "state_dict_shapes.json").read_text())[name].items():
        for block in range(entry.get("blocks", 1)):
            shapes[pattern.replace("*", str(block))] = entry["shape"]
    return shapes


def published_config(name: str) -> dict:
    "The fields of `ViCLIPConfig`, of 'b' or 'l'."
    width, layers, patch, text, embed = dict(b=(768, 12, 16, 512, 512), l=(1024, 24, 14, 768, 768))[name]
    return dict(
        image_size=224,
        patch_size=patch,
        vision_width=width,
        vision_layers=layers,
        vision_heads=width // 64,
        embed_dim=embed,
        num_frames=8,
        context_length=32,
        vocab_size=49408,
        text_width=text,
        text_heads=text // 64,
        text_layers=12,
    )
