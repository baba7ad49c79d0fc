"""What is written of the results: tables, figures, README. Nothing here imports torch."""

from .._lazy import attach

__getattr__, __dir__ = attach(__name__)
