"Names and shapes of the published checkpoints' tensors, ViCLIP-B's and ViCLIP-L's."

import json
from pathlib import Path


def published_shapes(golden: Path, name: str) -> dict:
    "Every tensor's shape by its name, of 'b' or 'l'; the file writes what all blocks of a tower have once, with a *."
    shapes = {}
    for pattern, entry in json.loads((golden / "state_dict_shapes.json").read_text())[name].items():
        for block in range(entry.get("blocks", 1)):
            shapes[pattern.replace("*", str(block))] = entry["shape"]
    return shapes
