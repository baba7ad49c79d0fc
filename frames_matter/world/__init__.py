"""The mini world: scenes, their captions and films, what is true of them, and the model pretrained on it."""

from .._lazy import attach

__getattr__, __dir__ = attach(__name__)
