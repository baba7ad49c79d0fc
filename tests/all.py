"""Everything `make test` tests, a step at a time: each step's name, result and seconds, and the counts at the end.

python tests/all.py              every step
python tests/all.py --quick      those of `make quick`, under a minute: for while one works
python tests/all.py export wheel these steps only
"""

import filecmp
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

from lock import CONSTRAINTS, differences

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
SMOKE = {
    **os.environ,
    "FRAMES_MATTER_PROFILE": "smoke",
    "OMP_NUM_THREADS": "1",
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
}
SMOKE.pop("FRAMES_MATTER_HOME", None)
SOURCES = ["nbs", "tests", "bench", "setup.py"]  # what is written by hand; frames_matter/ is exported from nbs/


def sh(*command, cwd=ROOT, env=SMOKE, show=False, advice=""):
    "Run a command; its output is returned, or told if it fails, with what to do about it."
    done = subprocess.run(
        [str(c) for c in command],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        stdout=None if show else subprocess.PIPE,
        stderr=None if show else subprocess.STDOUT,
    )
    if done.returncode:
        told = (done.stdout or "").splitlines()[-60:]
        command_line = " ".join(map(str, command))
        raise AssertionError("\n".join([f"`{command_line}` exited {done.returncode}", *told, advice]).rstrip())
    return done.stdout


def tree(folder, pattern):
    "Relative path -> bytes of the files below a folder."
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(Path(folder).rglob(pattern))
        if p.is_file() and not any(part.startswith((".ipynb_checkpoints", "__pycache__")) for part in p.parts)
    }


def assert_same(before, after, what, advice="look at them with `git diff`"):
    "Name the files that differ."
    differ = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
    assert not differ, f"{what} changes {', '.join(differ)}; {advice}"


def copy_of_sources(folder):
    "The notebooks, the package and nbdev's settings, where they may be rewritten."
    for name in ("nbs", "frames_matter"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "settings.ini"):
        shutil.copy(ROOT / name, folder)
    return folder


def changes_nothing(command, folder, pattern):
    "Run one of nbdev's commands on a copy: it leaves the files of a folder, and nbdev's settings, as they are."
    with tempfile.TemporaryDirectory() as d:
        copy = copy_of_sources(Path(d))
        sh(BIN / command, cwd=copy)
        before, after = tree(ROOT / folder, pattern), tree(copy / folder, pattern)
        assert_same(before, after, command, "run `make fix`, and commit what it changes")
        assert filecmp.cmp(ROOT / "pyproject.toml", copy / "pyproject.toml", shallow=False), (
            f"{command} changes pyproject.toml"
        )


# --- the steps ---


def environment():
    "what is installed fits together and is what constraints.txt names"
    sh(sys.executable, "-m", "pip", "check")
    told = differences(CONSTRAINTS.read_text(encoding="utf-8"))
    assert not told, "\n".join(told)


def style():
    "ruff: layout, and what it finds in code"
    advice = "`make fix` mends the layout and some of the rest; what it cannot mend is yours"
    package = Path("frames_matter")
    by_hand = [p.relative_to(ROOT) for pattern in ("_*.py*", "*/__init__.py") for p in (ROOT / package).glob(pattern)]
    sh(sys.executable, "-m", "ruff", "format", "--check", "--force-exclude", *SOURCES, *by_hand, advice=advice)
    sh(sys.executable, "-m", "ruff", "check", "--output-format", "concise", *SOURCES, package, advice=advice)


def types():
    "mypy: a program that uses the face is typed as the package says"
    sh(sys.executable, "-m", "mypy", advice="a use in tests/typed_face.py and the package's annotations disagree")


def export():
    "nbdev-export changes nothing"
    changes_nothing("nbdev-export", "frames_matter", "*.py")


def clean():
    "nbdev-clean changes nothing"
    changes_nothing("nbdev-clean", "nbs", "*.ipynb")


SCHEMAS = {  # of check-jsonschema's own, so that nothing is fetched: what is to be as they say
    "vendor.github-workflows": ".github/workflows/*.yaml",
    "custom.github-workflows-require-timeout": ".github/workflows/*.yaml",
    "vendor.dependabot": ".github/dependabot.yml",
    "vendor.github-issue-config": ".github/ISSUE_TEMPLATE/config.yml",
    "vendor.github-issue-forms": ".github/ISSUE_TEMPLATE/[!c]*.yml",
    "vendor.citation-file-format": "CITATION.cff",
}


def workflows(root=ROOT):
    "check-jsonschema and zizmor: workflows, forms for issues, CITATION.cff"
    for schema, pattern in SCHEMAS.items():
        files = sorted(root.glob(pattern))
        assert files, f"there is no {pattern}"
        sh(BIN / "check-jsonschema", "--builtin-schema", schema, *files)
    sh(BIN / "zizmor", "--offline", "--no-progress", "--quiet", "--persona", "auditor", root / ".github")


DOCS = """
from nbdev.serve import proc_nbs

if __name__ == "__main__":  # it starts processes
    print(proc_nbs("nbs"))
"""


def docs():
    "the site's pages can be made: imports, exports and show_doc run by themselves; and nothing is wrong with them"
    with tempfile.TemporaryDirectory() as d:
        copy = copy_of_sources(Path(d))
        (copy / "pages.py").write_text(DOCS)
        advice = "a cell with an import in it is run without those before it: give imports a cell of their own"
        sh(sys.executable, "pages.py", cwd=copy, env=SMOKE | {"PYTHONPATH": str(copy)}, advice=advice)
        made = tree(copy / "_proc", "*.ipynb")
        assert made.keys() == tree(ROOT / "nbs", "*.ipynb").keys(), f"pages: {', '.join(made)}"
        advice = "the same on a page of nbs/: python tests/site_checks.py nbs/..."
        sh(sys.executable, ROOT / "tests" / "site_checks.py", "--staged", copy / "_proc", advice=advice)


def lessons():
    "the five lessons through papermill, from nothing"
    for folder in ("data", "data_manifest", "results"):
        shutil.rmtree(ROOT / folder / "smoke", ignore_errors=True)
    sh(BIN / "frames-matter", "reproduce", "--profile", "smoke", show=True)
    made = sorted(p.name for p in (ROOT / "results" / "smoke" / "notebooks").glob("*.ipynb"))
    assert made == [p.name for p in sorted((ROOT / "nbs" / "lessons").glob("[0-9]*.ipynb"))] and len(made) == 5, (
        f"executed: {made}"
    )


def notebooks():
    "nbdev-test: every notebook"
    print(sh(BIN / "nbdev-test", "--n-workers", "2", "--timing").strip()[-1500:])


def alias():
    "nbdev_test is nbdev-test"
    assert "Success" in sh(BIN / "nbdev_test", "nbs/base/profiles.ipynb")


def pytest():
    "pytest in tests/, a file at a time on every core"
    sh(sys.executable, "-m", "pytest", "tests", "-n", "auto", "--maxprocesses", "8", "--dist", "loadfile", show=True)


def units():
    "the tests that take seconds: the package as a whole, its face, its contracts"
    files = [f"tests/test_{name}.py" for name in QUICK_TESTS]
    sh(sys.executable, "-m", "pytest", "-m", "not slow", "-r", "fE", *files, show=True)


def report():
    "a report changes nothing that is committed: README, tables, the site's pages; and a second one nothing at all"

    def state(*patterns):
        pages = [ROOT / "README.md", ROOT / "nbs" / "index.qmd", *(ROOT / "nbs" / "results").glob("*.qmd")]
        found = {str(page.relative_to(ROOT)): page.read_bytes() for page in pages}
        for p in patterns:
            found |= tree(ROOT / "results", p)
        return found

    committed = state("mini/README.md", "mini/tables/*.csv")
    sh(BIN / "frames-matter", "report", "--profile", "mini")
    first = state("mini/README.md", "mini/tables/*", "mini/figures/*") | tree(ROOT / "nbs" / "results", "figures/*")
    assert_same(
        committed, {k: v for k, v in first.items() if k in committed or k.endswith(".qmd")}, "frames-matter report"
    )
    sh(BIN / "frames-matter", "report", "--profile", "mini")
    again = state("mini/README.md", "mini/tables/*", "mini/figures/*") | tree(ROOT / "nbs" / "results", "figures/*")
    assert_same(first, again, "a second frames-matter report")


USE = """
import sys
from pathlib import Path

import frames_matter as fm

assert not {"torch", "nbdev", "papermill", "IPython"} & set(sys.modules)
assert Path(sys.prefix) in Path(fm.__file__).parents, fm.__file__
assert Path(fm.__file__).with_name("py.typed").is_file()

import torch

same = torch.eye(4)
assert fm.hnac(same, same) <= fm.infonce(same, same) + 1e-6 < 0.01
nano = fm.load_viclip("nano")
size = nano.config.image_size
with torch.no_grad():
    assert nano.encode_video(torch.zeros(1, 8, 3, size, size)).shape[0] == 1
assert not {"nbdev", "papermill", "IPython"} & set(sys.modules)

from frames_matter.study.lessons import lesson_paths

assert len(lesson_paths()) == 5 and "site-packages" in str(lesson_paths()[0])
print(fm.__version__)
"""


def wheel():
    "the wheel, installed into a fresh environment and used outside the checkout"
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        env = {k: v for k, v in os.environ.items() if not k.startswith(("FRAMES_MATTER", "PYTHON", "VIRTUAL_ENV"))}
        # The wheel is built from the source distribution: nothing left in build/ gets in.
        sh(sys.executable, "-m", "build", "--outdir", d, ROOT)
        (built,) = d.glob("*.whl")
        print(f"{built.name}: {built.stat().st_size / 1e6:.1f} MB")
        sh(sys.executable, "-m", "venv", d / "env")
        python, command = d / "env" / "bin" / "python", d / "env" / "bin" / "frames-matter"
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        sh(*install, built, "-c", ROOT / "constraints.txt", env=env)
        elsewhere = d / "elsewhere"
        elsewhere.mkdir()
        assert "reproduce" in sh(command, "--help", cwd=elsewhere, env=env)
        assert "reproduce" in sh(python, "-m", "frames_matter", "--help", cwd=elsewhere, env=env)
        print("version", sh(python, "-c", USE, cwd=elsewhere, env=env).strip())
        print(sh(command, "doctor", cwd=elsewhere, env=env).strip())
        sh(command, "dataset", "build", "--profile", "smoke", cwd=elsewhere, env=env)
        assert (elsewhere / "data_manifest" / "smoke" / "clips.csv").is_file()


# Two lists that run side by side, each step after the one before it, and then pytest on all cores.
SIDE_BY_SIDE = [lessons, notebooks, alias, report], [docs, wheel, types, environment, style, workflows, export, clean]
STEPS = [*SIDE_BY_SIDE[0], *SIDE_BY_SIDE[1], pytest]
QUICK = [style, types, workflows, export, clean, units]
QUICK_TESTS = ["package", "face", "documents", "workflows", "site", "licences", "contracts", "tokens", "preprocessing"]


def one_by_one(steps):
    "Do steps and tell of each; returns the names of those that failed."
    failed = []
    for step in steps:
        print(f"--- {step.__name__}: {step.__doc__}", flush=True)
        began = time.perf_counter()
        try:
            step()
            result = "ok"
        except Exception as e:
            failed.append(step.__name__)
            result = f"FAILED: {e}" if isinstance(e, AssertionError) else f"FAILED: {type(e).__name__}: {e}"
        print(f"--- {step.__name__} {result} ({time.perf_counter() - began:.1f} s)", flush=True)
    return failed


def in_a_process(steps):
    "The same in a process of its own, whose lines are handed on; what it did not tell to be ok has failed."
    names, fine = [step.__name__ for step in steps], set()
    command = [sys.executable, __file__, *names]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout:
            if not line.startswith(SUMMARY):
                print(line, end="", flush=True)
            if told := re.match(r"--- (\w+) ok ", line):
                fine.add(told[1])
    return [name for name in names if name not in fine]


SUMMARY = "=== "


def main(names):
    known = {step.__name__: step for step in [*STEPS, units]}
    if unknown := [name for name in names if name != "--quick" and name not in known]:
        sys.exit(f"Unknown step {unknown[0]!r}; valid: {', '.join(known)}.")
    start = time.perf_counter()
    if names:
        steps = QUICK if names == ["--quick"] else [known[name] for name in names]
        failed = one_by_one(steps)
    else:
        steps = STEPS
        with ThreadPoolExecutor() as threads:
            failed = [*chain.from_iterable(threads.map(in_a_process, SIDE_BY_SIDE)), *one_by_one([pytest])]
    if failed:
        print(f"{SUMMARY}run one step by itself with `.venv/bin/python tests/all.py {failed[0]}`")
    took = f"it took {time.perf_counter() - start:.0f} s"
    print(f"{SUMMARY}{took}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    print(f"{SUMMARY}{len(steps) - len(failed)} passed, {len(failed)} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
