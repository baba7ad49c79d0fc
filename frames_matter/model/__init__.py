"""ViCLIP: its towers, weights, tokenizer and preprocessing, the heads on it, the losses, training."""

from .._lazy import attach

__getattr__, __dir__ = attach(__name__)
