"""What all else stands on: errors, profiles, files, seeds, processes, registries, ffmpeg, the hub."""

from .._lazy import attach

__getattr__, __dir__ = attach(__name__)
