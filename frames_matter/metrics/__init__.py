"""What is measured: ranks and recalls, the cosine gap, intervals and tests."""

from .._lazy import attach

__getattr__, __dir__ = attach(__name__)
