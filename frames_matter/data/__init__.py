"""Clips: where rows come from, how videos are fetched, cut and checked, the manifest, the dataset."""

from .._lazy import attach

__getattr__, __dir__ = attach(__name__)
