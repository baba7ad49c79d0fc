import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent

@pytest.fixture(scope="session")
def root():
    "The checkout."
    return ROOT

@pytest.fixture(scope="session")
def shared():
    "The folder of reference answers beside the checkout; tests that need it are skipped without it."
    folder = ROOT.parent/"shared"
    if not folder.is_dir(): pytest.skip(f"no reference answers: {folder.parent.name}/shared is not beside the checkout")
    return folder
