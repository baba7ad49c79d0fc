"""The experiment: what a run is, how it is run, measured and stored, the grid, the lessons."""

from .._lazy import attach

__getattr__, __dir__ = attach(__name__)
