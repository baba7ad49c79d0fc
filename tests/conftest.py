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
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no reference answers: {folder.parent.name}/shared is not beside the checkout")
    return folder


@pytest.fixture(scope="session")
def films(tmp_path_factory):
    "A film for each fault, and good ones."
    from fault_site import make_films

    return make_films(tmp_path_factory.mktemp("films"))


@pytest.fixture
def site(films):
    "A site on loopback that misbehaves as the names of its videos say."
    from fault_site import serve_faults

    with serve_faults(films) as site:
        yield site
