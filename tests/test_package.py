"The package as a whole: one place for each fact, cheap imports, dependencies that point downwards, sizes."

import ast
import configparser
import json
import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import metadata

import ffmpeg
import pytest
import yaml
from conftest import ROOT

from frames_matter.base.ffmpeg import find_ffmpeg

try:
    import tomllib
except ModuleNotFoundError:
    import tomli as tomllib

NOTEBOOK_TOOLS = [
    "nbdev",
    "papermill",
    "IPython",
    "ipykernel",
    "nbformat",
    "nbclient",
    "jupyter_client",
    "execnb",
    "fastcore",
]


@pytest.fixture(scope="module")
def settings(root):
    parser = configparser.ConfigParser(delimiters=["="], interpolation=None)
    parser.read(root / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


@pytest.fixture(scope="module")
def pyproject(root):
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def lines(text):
    return [line.strip() for line in text.splitlines() if line.strip()]


def python(code, cwd=None):
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)


def test_name_and_lowest_python_agree(settings, pyproject):
    assert pyproject["project"]["name"] == settings["name"]
    assert pyproject["project"]["requires-python"] == f">={settings['min_python']}"


def test_no_other_fact_stands_in_both(settings, pyproject):
    assert set(pyproject["project"]) == {"name", "requires-python", "dynamic", "urls"}  # urls: nbdev reads them there
    assert "url" not in settings
    assert "setuptools" not in pyproject["tool"]
    stray = set(pyproject["tool"]["nbdev"]) & set(settings)
    assert not stray


def test_dynamic_fields_cover_what_setup_gives(root, pyproject):
    declared = set(pyproject["project"]["dynamic"])
    assert declared >= {"version", "description", "dependencies", "optional-dependencies", "scripts"}


def test_version_stands_once(root, settings):
    version = re.search(r'^__version__ = "(.+)"', (root / "frames_matter" / "__init__.py").read_text(), re.M)[1]
    import frames_matter

    assert frames_matter.__version__ == metadata.version(settings["name"]) == version
    for name in ("settings.ini", "setup.py", "pyproject.toml"):
        assert not re.search(r"version\s*=\s*[\"']?\d+\.\d+\.\d+", (root / name).read_text()), name


def test_the_citation_names_the_same_authors_and_licence(root, settings):
    "Its form, check-jsonschema looks at."
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["authors"] == [{"name": settings["author"]}] and citation["license"] == settings["license"]
    assert citation["title"].startswith(f"{settings['name']}:")


def test_requirements_are_ranges_and_pins_are_constraints(root, settings):
    requirements = lines(settings["requirements"])
    assert all(re.fullmatch(r"[\w-]+>=[\d.]+(,<[\d.]+)?", r) for r in requirements), requirements
    pins = re.findall(r"^([\w-]+)==", (root / "constraints.txt").read_text(), re.M)
    assert {"nbdev", "fastcore", "execnb", "torch", "ruff"} <= set(pins)
    names = {re.split(r"[><=]", r)[0] for r in requirements}
    assert {
        "nbdev",
        "torch",
        "av",
        "decord2",
        "yt-dlp",
        "ffmpeg-python",
        "matplotlib",
        "pandas",
        "huggingface_hub",
        "papermill",
    } <= names


def test_both_console_scripts_are_installed(settings):
    names = {e.name for e in metadata.distribution(settings["name"]).entry_points if e.group == "console_scripts"}
    assert names == {"frames-matter", "nbdev_test"}


def test_import_is_cheap(tmp_path):
    heavy = NOTEBOOK_TOOLS + ["torch", "pandas", "matplotlib", "scipy"]
    done = python(
        f"import sys, frames_matter, frames_matter.cli; print([m for m in {heavy} if m in sys.modules])", tmp_path
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_help_needs_no_notebook_tools(tmp_path):
    block = f"import sys; sys.modules.update(dict.fromkeys({NOTEBOOK_TOOLS + ['torch', 'pandas']}))"
    done = python(
        f"{block}\nimport frames_matter\nfrom frames_matter.cli import run_command\nsys.exit(run_command(['--help']))",
        tmp_path,
    )
    assert done.returncode == 0 and "reproduce" in done.stdout, done.stderr


def test_report_needs_no_torch(root, tmp_path):
    "What only reads results: all of report/, and of labs/ all but what the runs do."
    names = [n for n in sources(root) if n.split(".")[0] == "report"] + [
        "labs.registry"
    ]  # which imports every laboratory
    assert len(names) > 5
    code = f"""
import importlib, sys
for name in {["metrics.stats", *(n for n in names)]}:
    importlib.import_module("frames_matter." + name)
    assert "torch" not in sys.modules, name + " imports torch"
"""
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


NEVER_TOGETHER = """
import sys
import {module}
from frames_matter.video.frames import read_frames
for reader in ("av", "decord"):
    assert read_frames({film!r}, [0], reader=reader).shape[0] == 1
    assert "decord" not in sys.modules, "decord is loaded beside torch"
"""


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    "A second of video."
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    source = ffmpeg.input("testsrc=s=64x48:r=5:d=1", f="lavfi")
    source.output(str(path), vcodec="libx264", pix_fmt="yuv420p").global_args("-v", "error").run(cmd=find_ffmpeg())
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [
        "video.frames",
        "video.sampling",
        "data.dataset",
        "data.own",
        "cli",
        "report.tables",
        "model.viclip",
        "labs.frames",
    ],
)
def test_decord_never_shares_a_process_with_torch(film, tmp_path, module):
    "decord preloads all that lies beside torch's CUDA build, NVBLAS too, which kills a torch that comes after it."
    done = python(NEVER_TOGETHER.format(module=f"frames_matter.{module}", film=film), tmp_path)
    assert done.returncode == 0, done.stderr


def test_one_place_imports_decord(root):
    importing = [name for name, s in sources(root).items() if re.search(r"^\s*(import|from) decord\b", s, re.M)]
    assert importing == ["video.decord_reader"]


# --- the source ---


def sources(root):
    "Dotted name of every module -> its source."
    package = root / "frames_matter"
    paths = [p for p in sorted(package.rglob("*.py")) if not p.stem.startswith("_")]
    return {".".join(p.relative_to(package).with_suffix("").parts): p.read_text(encoding="utf-8") for p in paths}


def imported(name, source):
    "The package's modules that a module imports, anywhere in it."
    folder = name.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            module = [*folder[: len(folder) - node.level + 1], *(node.module or "").split(".")]
        elif (node.module or "").startswith("frames_matter."):
            module = node.module.split(".")[1:]
        else:
            continue
        yield ".".join(filter(None, module))


def test_imports_point_downwards(root):
    "Folders, and the modules of each, have an order in which each imports from those before alone."
    modules = {name: set(imported(name, source)) for name, source in sources(root).items()}
    folders = {}
    for name, found in modules.items():
        folders.setdefault(name.split(".")[0], set()).update(i.split(".")[0] for i in found)
    list(TopologicalSorter(modules).static_order())  # a circle is a CycleError, which names it
    list(TopologicalSorter({f: found - {f} for f, found in folders.items()}).static_order())


def test_source_is_of_the_lowest_python(root, settings):
    version = tuple(map(int, settings["min_python"].split(".")))
    for name, source in sources(root).items():
        ast.parse(source, filename=name, feature_version=version)


def test_no_star_imports(root):
    stars = [
        name
        for name, s in sources(root).items()
        for n in ast.walk(ast.parse(s))
        if isinstance(n, ast.ImportFrom) and n.names[0].name == "*"
    ]
    assert not stars


# --- sizes ---

LINE, CELL, FUNCTION = 120, 60, 40  # columns; lines; lines without the docstring


def written():
    "What is written by hand: (file, the cell's id or '', text) of every code cell of a notebook and of every script."
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        if ".ipynb_checkpoints" not in path.parts:
            for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
                if cell["cell_type"] == "code":
                    yield path.relative_to(ROOT).as_posix(), cell["id"], "".join(cell["source"])
    scripts = [p for folder in ("tests", "bench") for p in sorted((ROOT / folder).rglob("*.py"))]
    for path in [*scripts, ROOT / "setup.py", *(ROOT / "frames_matter").rglob("_*.py")]:
        if path.name != "_modidx.py":
            yield path.relative_to(ROOT).as_posix(), "", path.read_text(encoding="utf-8")


def functions(text):
    "The functions and methods of some code, and how many lines each has beside its docstring."
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0]
            told = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) is not None else 0
            yield node.name, node.end_lineno - node.lineno + 1 - told


def test_no_line_is_too_long():
    "In the notebooks' code, in scripts, and in what is exported but for nbdev's own list of names."
    texts = list(written())
    for path in (ROOT / "frames_matter").rglob("*.py"):
        if not path.name.startswith("_"):
            text = re.sub(r"^__all__ = \[.*?\]$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
            texts.append((path.relative_to(ROOT).as_posix(), "", text))
    found = [f"{file}: {line}" for file, _, text in texts for line in text.splitlines() if len(line) > LINE]
    assert not found


def test_no_cell_is_too_long():
    found = [f"{file}, cell {cell}" for file, cell, text in written() if cell and len(text.splitlines()) > CELL]
    assert not found


def test_no_function_is_too_long():
    found = []
    for file, _, text in written():
        found += [f"{file}: {name}, {lines} lines" for name, lines in functions(text) if lines > FUNCTION]
    assert not found


def test_the_sizes_are_counted():
    text = 'def f():\n    """Told\n\n    at length."""\n    def g():\n        return 1\n    return g\n'
    assert dict(functions(text)) == {"f": 4, "g": 2}


def test_every_page_has_a_section(root):
    "A page without one has no table of contents on the site."
    without = []
    for path in sorted((root / "nbs").rglob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        if not re.search("^## ", prose, re.M):
            without.append(path.relative_to(root).as_posix())
    assert not without


def long_description(root, **env):
    "README as it goes onto the index of packages."
    done = subprocess.run(
        [sys.executable, "setup.py", "--long-description"],
        cwd=root,
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.slow
def test_on_the_index_of_packages_links_and_pictures_have_whole_addresses(root, pyproject):
    readme, shown = (root / "README.md").read_text(encoding="utf-8"), long_description(root, GITHUB_REPOSITORY="")
    own = [t for t in re.findall(r"\]\(([^)\s]+)\)", readme) if not t.startswith(("#", "http"))]
    assert len(own) > 20
    told = re.findall(r"\]\(([^)\s]+)\)", shown)
    assert all(t.startswith(("#", "https://")) for t in told)
    address = pyproject["project"]["urls"]["Repository"]
    assert {f"{address}/blob/main/{t}" for t in own if not t.endswith(".png")} <= set(told)
    raw = address.replace("github.com", "raw.githubusercontent.com")
    assert {f"{raw}/main/{t}" for t in own if t.endswith(".png")} <= set(told)
    assert "https://github.com/somebody/fork/blob/main/" in long_description(root, GITHUB_REPOSITORY="somebody/fork")
