"The face, `import frames_matter as fm`: what it offers is there, is documented and typed, and costs nothing to import."

import ast
import dataclasses
import inspect
import re
import subprocess
import sys
from importlib import import_module

import pytest
from conftest import ROOT

import frames_matter as fm
from frames_matter._lazy import homes_of

PACKAGE = ROOT / "frames_matter"
SUBPACKAGES = sorted(p.parent.name for p in PACKAGE.glob("*/__init__.py"))
HEAVY = ["torch", "numpy", "pandas", "scipy", "matplotlib", "decord", "yt_dlp", "nbdev", "typer"]

# What code outside this repository calls.
CONTRACT = {
    "ViCLIPConfig", "ViCLIP", "load_viclip", "clip_tokenizer", "preprocess", "infonce", "hnac", "SAMPLERS",
    "sample_indices", "read_clip", "retrieval_metrics", "cosine_gap", "VideoCaptionDataset", "UserError",
    "get_profile", "Profile", "PROFILES", "as_profile", "read_frames", "save_viclip", "tokenizer_for", "LOSSES",
    "HEADS", "clip_indices", "clip_gaps", "ranks", "ndcg", "dual_softmax", "build_dataset", "load_manifest",
    "verify", "export_dataset", "grid", "run", "run_all", "RunSpec", "load_runs", "LABORATORIES", "fit",
    "encode_clips", "pairwise_similarity", "Strategy", "SOURCES", "load",
}  # fmt: skip


def stub():
    "Each name of __init__.pyi and the module it is from; '' for a subpackage."
    found = {}
    for node in ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 1 and all(alias.asname == alias.name for alias in node.names), ast.unparse(node)
            found |= {alias.name: node.module or "" for alias in node.names}
    return found


NAMES = stub()
OBJECTS = [name for name, module in NAMES.items() if module]


def python(code, cwd=None):
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)


# --- names ---


def test_what_the_contract_names_is_there():
    assert set(NAMES) >= CONTRACT


def test_dir_lists_the_names():
    assert sorted(dir(fm)) == sorted(NAMES) and set(SUBPACKAGES) | {"cli"} == set(NAMES) - set(OBJECTS)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_resolves(name):
    module = import_module(f"frames_matter.{NAMES[name] or name}")
    assert getattr(fm, name) is (getattr(module, name) if NAMES[name] else module)


@pytest.mark.parametrize("name", OBJECTS)
def test_every_name_stands_where_it_is_defined(name):
    "Not where it is merely imported: a symbol has one home."
    thing = getattr(fm, name)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        assert thing.__module__ == f"frames_matter.{NAMES[name]}"


def test_importing_it_imports_nothing_heavy(tmp_path):
    done = python(f"import sys, frames_matter; print([m for m in {HEAVY} if m in sys.modules])", tmp_path)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_it_is_marked_as_typed():
    assert (PACKAGE / "py.typed").is_file()


# --- documentation ---


def is_told(parameter, text):
    "Whether a NumPy docstring has an entry for a parameter, alone or together with others."
    entry = rf"^\s*(?:[\w*]+, )*\*{{0,2}}{re.escape(parameter)}(?:, [\w*]+)*\s*(?::|$)"
    return re.search(entry, text, re.M)


def texts_of(thing):
    "The docstring of a function; of a class also those of its own bases and of `__init__`."
    if not inspect.isclass(thing):
        return inspect.getdoc(thing) or ""
    own = [c for c in thing.__mro__ if c.__module__.startswith("frames_matter.")]
    return "\n".join(inspect.cleandoc(text) for c in own for text in (c.__doc__, c.__init__.__doc__) if text)


def parameters_of(thing):
    "What a function or a class is called with, but not self."
    if inspect.isclass(thing) and not any(inspect.isfunction(vars(c).get("__init__")) for c in thing.__mro__):
        return []  # as an exception has none of its own
    if dataclasses.is_dataclass(thing):
        return [inspect.Parameter(f.name, 1, annotation=f.type) for f in dataclasses.fields(thing) if f.init]
    return list(inspect.signature(thing).parameters.values())


DOCUMENTED = [n for n in OBJECTS if inspect.isclass(getattr(fm, n)) or inspect.isfunction(getattr(fm, n))]


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_name_is_documented_and_typed(name):
    thing = getattr(fm, name)
    told, parameters = texts_of(thing), parameters_of(thing)
    assert thing.__doc__ and not thing.__doc__.startswith(f"{name}("), "a docstring of its own"
    assert [p.name for p in parameters if p.annotation is p.empty] == [], "parameters without a type"
    assert [p.name for p in parameters if not is_told(p.name, told)] == [], "parameters that the docstring leaves out"
    if inspect.isfunction(thing):
        assert inspect.signature(thing).return_annotation is not inspect.Signature.empty, "the type of what comes back"


@pytest.mark.parametrize(
    "text, told",
    [("x : int\n    An x.", True), ("x, y : int\n    Both.", True), ("y, x\n    Both.", True), ("**x : int", True)]
    + [("", False), ("The x that is taken.", False), ("xy : int", False)],
)
def test_the_check_knows_what_is_told(text, told):
    assert bool(is_told("x", f"Parameters\n----------\n{text}")) == told


# --- subpackages ---


@pytest.mark.parametrize("folder", SUBPACKAGES)
def test_a_subpackage_offers_what_its_modules_export(folder):
    package = import_module(f"frames_matter.{folder}")
    assert package.__doc__
    for name, modules in homes_of(package.__name__).items():
        assert name in dir(package)
        if not (PACKAGE / folder / f"{name}.py").is_file():
            assert getattr(package, name) is getattr(import_module(f"{package.__name__}.{modules[0]}"), name)


def test_no_two_modules_share_a_public_name():
    homes = {}
    for folder in SUBPACKAGES:
        for name, modules in homes_of(f"frames_matter.{folder}").items():
            homes.setdefault(name, []).extend(f"{folder}.{module}" for module in modules)
    assert {name: modules for name, modules in homes.items() if len(modules) > 1} == {}


def test_a_subpackage_imports_only_what_is_asked_for(tmp_path):
    code = "import sys; from frames_matter.base import UserError; dir(__import__('frames_matter.data').data)"
    done = python(f"{code}; print([m for m in {HEAVY} if m in sys.modules])", tmp_path)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_what_a_subpackage_has_not_is_an_error():
    with pytest.raises(ImportError, match="nothing"):
        from frames_matter.data import nothing  # noqa: F401
    with pytest.raises(AttributeError, match="nothing"):
        fm.nothing  # noqa: B018


# --- types ---


def mypy(*files):
    command = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", *files]
    return subprocess.run([str(c) for c in command], cwd=ROOT, capture_output=True, text=True)


WRONG = {
    "fm.as_profile(3)": "arg-type",
    "fm.get_profile('mini').sorce": "attr-defined",
    "fm.infonce('a dog', 'a cat')": "arg-type",
    "fm.read_clip('clip.mp4', k='eight')": "arg-type",
    "fm.retrieval_metrics()": "call-arg",
    "fm.load_viclop('nano')": "attr-defined",
}


def test_a_wrong_call_is_an_error_of_types(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text("import frames_matter as fm\n\n" + "\n".join(WRONG) + "\n")
    done = mypy(path)
    found = dict(re.findall(r"wrong\.py:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.M))
    assert found == {str(line): kind for line, kind in enumerate(WRONG.values(), 3)}, done.stdout + done.stderr
