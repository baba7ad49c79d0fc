"""`python -m frames_matter` is `frames-matter`."""

from .cli import main

main()
