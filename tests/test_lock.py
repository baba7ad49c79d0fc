"""constraints.txt names the version of all that is installed for the tests, and nothing that is not."""

import re
import sys

import pytest
from lock import CONSTRAINTS, UNPINNED, closure, differences, locked, pin, pinned, requirements


def test_every_needed_package_is_pinned_as_installed():
    assert differences(CONSTRAINTS.read_text(encoding="utf-8")) == []


def test_what_is_written_says_what_is_installed():
    names = pinned(locked())
    assert differences(locked()) == []
    assert names.keys() == closure().keys() - UNPINNED.keys()
    assert {"torch", "numpy", "nbdev", "pytest", "polars", "jinja2"} <= names.keys()  # the last is asked for by others


def test_what_only_gpu_wheels_of_torch_need_is_left_to_them(monkeypatch):
    asked = ["numpy>=2", "nvidia-cublas==13; platform_system == 'Linux'", "cuda-bindings==13", "triton==3.4"]
    monkeypatch.setattr("lock.metadata.requires", lambda name: asked)
    assert requirements("torch", ()).keys() == {"numpy"}
    assert len(requirements("another", ())) == (4 if sys.platform == "linux" else 3)


@pytest.mark.parametrize("what", ["missing", "other"])
def test_a_file_that_is_not_what_is_installed_is_told(what):
    version = closure()["numpy"].version
    line = rf"^numpy=={re.escape(version)}.*$"
    changed = re.sub(line, "" if what == "missing" else "numpy==1.0", locked(), flags=re.M)
    (told,) = differences(changed)
    assert told.startswith(f"numpy {version} is")
    assert ("1.0;" in told) == (what == "other")


def test_a_package_that_the_oldest_python_cannot_have_is_pinned_for_the_others():
    distributions = closure()
    assert pin("torch", distributions["torch"]) == f"torch=={distributions['torch'].version.split('+')[0]}"
    assert pin("numpy", distributions["numpy"]).endswith('; python_version > "3.10"')
