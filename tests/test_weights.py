"""Checkpoints: B/16 and L/14 at full size with random numbers, loaded, run and saved back; memory; the hub's client."""

from collections import OrderedDict

import pytest
import torch
from published_shapes import published_shapes
from safetensors.torch import save_file

from frames_matter.model.viclip import ViCLIP, ViCLIPConfig

SMALL = ViCLIPConfig(32, 16, 64, 2, 1, 32, 4, 16, 300, 64, 1, 2)


@pytest.fixture()
def state():
    return {k: torch.randn_like(v) for k, v in ViCLIP(SMALL).state_dict().items()}


def random_checkpoint(golden, name, path):
    "A checkpoint with the real one's names and shapes and random numbers."
    numbers = torch.Generator().manual_seed(0)
    tensors = OrderedDict(
        (k, torch.empty(v).uniform_(-0.03, 0.03, generator=numbers)) for k, v in published_shapes(golden, name).items()
    )
    if path.suffix == ".pth":
        torch.save({"model": tensors}, path)
    else:
        save_file(tensors, path, metadata={"format": "pt"})
    return len(tensors)


# Run in a process of its own: load, measure, touch every number, one forward pass of each tower, save back, compare.
ROUND = """
import json, sys, torch
from safetensors import safe_open
from frames_matter.model.weights import load_viclip, save_viclip
torch.set_num_threads(1)
def peak(): # bytes: of this process since it was started; ru_maxrss would also count the one it was forked from
    return 1024*int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
source, back = sys.argv[1:]
load_viclip("nano"); torch.zeros(64, 64)@torch.zeros(64, 64)  # what is imported and set up on the first use of all
before = peak()
model = load_viclip(source)
total = sum(float(p.detach().flatten()[::512].sum()) for p in model.parameters())  # every page of the file is read
grown = peak() - before
with torch.no_grad():
    size = model.config.image_size
    video = model.encode_video(torch.randn(1, model.config.num_frames, 3, size, size), mask_ratio=0.9)
    text = model.encode_text(torch.tensor([[49406, 320, 1929, 49407] + [0]*28]))
assert video.shape == text.shape == (1, model.config.embed_dim) and video.isfinite().all() and text.isfinite().all()
save_viclip(model, back)
original = torch.load(source, weights_only=True, mmap=True)["model"] if source.endswith(".pth") else None
with safe_open(back, "pt") as saved, (safe_open(source, "pt") if original is None else saved) as given:
    get = given.get_tensor if original is None else original.__getitem__
    names = set(given.keys()) if original is None else set(original)
    assert set(saved.keys()) == names
    for k in names: assert saved.get_tensor(k).dtype == get(k).dtype and torch.equal(saved.get_tensor(k), get(k)), k
print(json.dumps({"grown": grown, "config": vars(model.config), "tensors": len(names)}))
"""
