"""Frames of a video: how they are decoded, and which are taken."""

from .._lazy import attach

__getattr__, __dir__ = attach(__name__)
