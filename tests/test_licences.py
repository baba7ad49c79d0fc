"LICENSES.md names every package with the licence that it states itself, and what wheels carry under other ones."

import re
import subprocess
from importlib.metadata import distribution

import imageio_ffmpeg
import pytest
from licences import LICENCES, asked_for, licence, written
from lock import CONSTRAINTS, UNPINNED, closure, pinned
from packaging.utils import canonicalize_name

TEXT = LICENCES.read_text(encoding="utf-8")


def section(title):
    return TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0]


def table(name):
    "The rows of a table that is written by code."
    rows = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", TEXT, re.S)[1].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def named():
    "Package -> licence, of both tables."
    asked = {name: said for name, said, _ in table("asked")}
    return asked | {name: said for said, names in table("others") for name in names.split(", ")}


def test_every_package_of_the_constraints_is_named():
    lines = re.findall(r"^([\w.-]+)==", CONSTRAINTS.read_text(encoding="utf-8"), re.M)
    pins = {canonicalize_name(name) for name in lines}
    assert named().keys() == pins | UNPINNED.keys()
    assert {name for name, *_ in table("asked")} == asked_for().keys()


def test_licences_are_those_that_the_packages_name():
    "Of the versions that the file is about; another may have changed its licence."
    pins = pinned(CONSTRAINTS.read_text(encoding="utf-8"))
    here = {name: of for name, of in closure().items() if pins.get(name) == of.version.split("+")[0]}
    assert here
    assert {name: licence(of.metadata) for name, of in here.items()} == {name: named()[name] for name in here}


def test_no_package_is_of_a_kind_that_is_passed_on():
    "By its own licence, that is; what wheels carry has a table of its own."
    assert not [name for name, said in named().items() if re.search(r"\b[AL]?GPL|proprietary", said, re.I)]


def test_writing_the_tables_changes_nothing_else():
    assert written(TEXT).partition("<!-- asked -->")[0] == TEXT.partition("<!-- asked -->")[0]
    assert written(written(TEXT)) == written(TEXT)


CARRIED = {  # what is called so in a wheel, and what LICENSES.md calls it
    **{"avcodec": "FFmpeg", "x264": "x264", "x265": "x265", "gnutls": "GnuTLS", "nettle": "Nettle", "gmp": "GMP"},
    **{"unistring": "libunistring", "mp3lame": "LAME", "asound": "ALSA", "gfortran": "Fortran", "zmq": "ZeroMQ"},
    **{"quadmath": "libquadmath", "gomp": "libgomp"},
}


@pytest.mark.parametrize("package", ["av", "decord2", "numpy", "scipy", "scikit-learn", "torch", "pyzmq", "pillow"])
def test_what_a_wheel_carries_is_said(package):
    "Libraries of these kinds that are in a wheel here; a wheel of another system may hold none."
    files = [str(path).rsplit("/", 1)[-1] for path in distribution(package).files or ()]
    libraries = [file for file in files if re.match(r"lib.*\.(so|dylib)|.*\.dll$", file)]
    held = {word for word in CARRIED if any(re.match(rf"(lib)?{word}\b|(lib)?{word}-", file) for file in libraries)}
    rows = [line for line in section("Programs and libraries that packages carry").splitlines() if package in line]
    assert [CARRIED[word] for word in held if not any(CARRIED[word] in row for row in rows)] == []


def test_the_program_that_imageio_ffmpeg_carries_is_said():
    "As it says itself what it is under."
    (row,) = [line for line in TEXT.splitlines() if line.startswith("| imageio-ffmpeg | BSD-2-Clause | the program")]
    assert [word for word in ("FFmpeg", "x264", "x265", "GPL-3.0-or-later") if word not in row] == []
    told = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-L"], capture_output=True, text=True, check=True).stdout
    assert "GNU General Public License" in told and "version 3" in told
