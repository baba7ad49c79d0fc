"""constraints.txt: the version of everything that the tests run with, what is asked for and what that asks for in turn.

python tests/lock.py    writes it anew from what is installed
"""

import re
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
EXTRAS = ("dev", "scale", "search")
OLDEST_PYTHON = "3.10"  # settings.ini's min_python
OF_CUDA = re.compile(
    "nvidia|cuda|triton"
)  # what torch's wheels for GPUs need, they pin themselves; those for CPUs none
UNPINNED = {"yt-dlp": "sites change, and only the newest yt-dlp keeps up with them"}
HEAD = """\
# Everything that the tests run with, by `make lock`. pip takes what of it is needed, and these versions of it:
# pip install frames_matter -c constraints.txt
"""


def requirements(name, extras):
    "What an installed package asks for here, with these extras: name -> extras."
    found = {}
    for text in metadata.requires(name) or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if name == "torch" and OF_CUDA.match(requirement.name):
            continue
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or ("",)):
            found.setdefault(canonicalize_name(requirement.name), set()).update(requirement.extras)
    return found


def installed(name):
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None


def closure(name="frames_matter", extras=EXTRAS):
    "All that a package needs, by name, as far as it is installed."
    found, waiting = {}, [(name, frozenset(extras))]
    while waiting:
        package, wanted = waiting.pop()
        for needed, more in requirements(package, wanted).items():
            if (needed, frozenset(more)) not in found and installed(needed):
                found[needed, frozenset(more)] = installed(needed)
                waiting.append((needed, frozenset(more)))
    return {needed: distribution for (needed, _), distribution in sorted(found.items())}


def pin(name, distribution):
    "A line of the file; with the Pythons that it is for, where the oldest is too old for it."
    version = distribution.version.split("+")[0]
    pythons = distribution.metadata["Requires-Python"]
    if pythons and not SpecifierSet(pythons).contains(OLDEST_PYTHON):
        return f'{name}=={version}; python_version > "{OLDEST_PYTHON}"'
    return f"{name}=={version}"


def locked():
    "The text of the file, of what is installed."
    pins = [pin(name, of) for name, of in closure().items() if name not in UNPINNED]
    notes = [f"# Not {name}: {reason}.\n" for name, reason in UNPINNED.items()]
    return "".join([HEAD, *notes, *(f"{line}\n" for line in pins)])


def pinned(text):
    "name -> version of the lines that hold for this Python."
    lines = [Requirement(line) for line in re.findall(r"^[\w.-]+==.*$", text, re.M)]
    held = [line for line in lines if line.marker is None or line.marker.evaluate()]
    return {canonicalize_name(line.name): str(line.specifier).removeprefix("==") for line in held}


def differences(text):
    "In what an installation differs from a file of constraints: a sentence each."
    known, found = pinned(text), closure()
    told = []
    for name, distribution in found.items():
        version = distribution.version.split("+")[0]
        if name in UNPINNED:
            continue
        if name not in known:
            told.append(f"{name} {version} is needed and constraints.txt does not name it; run `make lock`")
        elif known[name] != version:
            told.append(f"{name} {version} is installed, constraints.txt names {known[name]}; run `make setup`")
    return told


if __name__ == "__main__":
    CONSTRAINTS.write_text(locked(), encoding="utf-8")
    print(f"{len(pinned(locked()))} versions in {CONSTRAINTS.name}")
