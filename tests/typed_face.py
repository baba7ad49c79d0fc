"""Uses of the face as a program of one's own makes them; mypy reads this file, and nothing runs it.

A type that the package states wrongly is an error here: each result is given to a name of the type it should have.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

import frames_matter as fm


def profiles() -> Path:
    profile: fm.Profile = fm.get_profile("mini", n_clips=20)
    again: fm.Profile = fm.as_profile(profile)
    named: fm.Profile = fm.as_profile("smoke")
    seeds: tuple[int, ...] = again.seeds
    size: int = named.image_size
    print(seeds, size, list(fm.PROFILES))
    return fm.results_dir(profile)


def frames(path: str | Path) -> np.ndarray:
    indices: np.ndarray = fm.sample_indices("uniform", 100, k=8, seed=0)
    some: np.ndarray = fm.read_frames(path, indices)
    print(some.shape, list(fm.SAMPLERS))
    return fm.read_clip(path, "uniform", k=8, size=64, seed=0)


def model(path: Path) -> torch.Tensor:
    viclip: fm.ViCLIP = fm.load_viclip("nano", device="cpu")
    config: fm.ViCLIPConfig = viclip.config
    clip: torch.Tensor = fm.preprocess(frames(path), config.image_size)
    text: torch.Tensor = fm.tokenizer_for(fm.get_profile("mini"))(["a red star"], context_length=32)
    video, caption = viclip.encode_video(clip[None]), viclip.encode_text(text)
    loss: torch.Tensor = fm.infonce(video, caption, temperature=0.07)
    return loss + fm.hnac(video, caption, temperature=0.07, hard_negative_weight=0.5)


def metrics(similarity: np.ndarray) -> dict[str, Any]:
    positives = np.eye(len(similarity), dtype=bool)
    gap: float = fm.cosine_gap(similarity, kind="hardest")
    print(gap, fm.ranks(similarity, positives))
    return fm.retrieval_metrics(similarity)


def clips(manifest: Path) -> int:
    dataset = fm.VideoCaptionDataset(manifest, "train", strategy="uniform", k=8, size=64)
    return len(dataset)


def told(name: str) -> str:
    try:
        return fm.get_profile(name).source
    except fm.UserError as e:
        return str(e)
