"""The laboratories: what lies beside the study, one module or two for each."""

from .._lazy import attach

__getattr__, __dir__ = attach(__name__)
