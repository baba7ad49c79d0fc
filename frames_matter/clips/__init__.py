"""Your clips, your answer: a search in them, what can be learned from them, and what they say."""

from .._lazy import attach

__getattr__, __dir__ = attach(__name__)
