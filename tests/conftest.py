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
def golden():
    "Reference answers of the original code; they travel with the tests, and one that is missing is a failure."
    return ROOT / "tests" / "golden"


BESIDE = ROOT.parent / "shared"  # larger reference files that some machines have beside the checkout


@pytest.fixture(scope="session")
def shared():
    "The folder beside the checkout; a test that asks for it is an extra, which is collected only where the folder is."
    return BESIDE


def pytest_collection_modifyitems(config, items):
    "Leave the extras out where there is nothing to test them with."
    if BESIDE.is_dir():
        return
    extras = [item for item in items if "shared" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=extras)
    items[:] = [item for item in items if item not in extras]


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


@pytest.fixture(scope="module")
def smoke_home(tmp_path_factory):
    "A home in which the profile smoke is built, for the tests of a module."
    from frames_matter.base.profiles import get_profile
    from frames_matter.data.build import build_dataset

    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("FRAMES_MATTER_HOME", str(folder))
        build_dataset(get_profile("smoke"), progress=False)
        yield folder
