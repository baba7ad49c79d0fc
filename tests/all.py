"""Everything `make test` tests, a step at a time: prints each step's name, result and seconds, and the counts at the end.

python tests/all.py              every step
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
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
SMOKE = {
    **os.environ,
    "FRAMES_MATTER_PROFILE": "smoke",
    "OMP_NUM_THREADS": "1",
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
}
SMOKE.pop("FRAMES_MATTER_HOME", None)


def sh(*command, cwd=ROOT, env=SMOKE, show=False):
    "Run a command; its output is returned, or told if it fails."
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
        raise AssertionError(
            f"`{' '.join(map(str, command))}` exited {done.returncode}\n"
            + "\n".join((done.stdout or "").splitlines()[-60:])
        )
    return done.stdout


def tree(folder, pattern):
    "Relative path -> bytes of the files below a folder."
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(Path(folder).rglob(pattern))
        if p.is_file() and not any(part.startswith((".ipynb_checkpoints", "__pycache__")) for part in p.parts)
    }


def assert_same(before, after, what):
    "Name the files that differ."
    differ = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
    assert not differ, f"{what} changes {', '.join(differ)}"


def copy_of_sources(folder):
    "The notebooks, the package and nbdev's settings, where they may be rewritten."
    for name in ("nbs", "frames_matter"):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "settings.ini"):
        shutil.copy(ROOT / name, folder)
    return folder


def changes_nothing(command, folder, pattern):
    "Run one of nbdev's commands on a copy and compare the files of a folder, and nbdev's settings, with what was there."
    with tempfile.TemporaryDirectory() as d:
        copy = copy_of_sources(Path(d))
        sh(BIN / command, cwd=copy)
        assert_same(tree(ROOT / folder, pattern), tree(copy / folder, pattern), command)
        assert filecmp.cmp(ROOT / "pyproject.toml", copy / "pyproject.toml", shallow=False), (
            f"{command} changes pyproject.toml"
        )


# --- the steps ---


def environment():
    "what is installed fits together and is what constraints.txt names"
    sh(sys.executable, "-m", "pip", "check")
    for name, version in re.findall(r"^([\w-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.M):
        found = metadata.version(name).split("+")[0]
        assert found == version, f"{name} {found} is installed, constraints.txt names {version}; run `make setup`"


def export():
    "nbdev-export changes nothing"
    changes_nothing("nbdev-export", "frames_matter", "*.py")


def clean():
    "nbdev-clean changes nothing"
    changes_nothing("nbdev-clean", "nbs", "*.ipynb")


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
    "pytest in tests/"
    sh(sys.executable, "-m", "pytest", "tests", show=True)


def report():
    "a second report changes nothing"

    def state(*patterns):
        found = {"README.md": (ROOT / "README.md").read_bytes()}
        for p in patterns:
            found |= tree(ROOT / "results", p)
        return found

    committed = state("mini/tables/*.csv")
    sh(BIN / "frames-matter", "report", "--profile", "mini")
    first = state("mini/tables/*", "mini/figures/*")
    assert_same(committed, {k: first[k] for k in committed}, "frames-matter report")
    sh(BIN / "frames-matter", "report", "--profile", "mini")
    assert_same(first, state("mini/tables/*", "mini/figures/*"), "a second frames-matter report")


USE = """
import sys, torch, frames_matter
assert not [m for m in ("nbdev", "papermill", "IPython") if m in sys.modules]
from pathlib import Path
assert Path(sys.prefix) in Path(frames_matter.__file__).parents, frames_matter.__file__
from frames_matter.model.losses import infonce, hnac
same = torch.eye(4)
assert hnac(same, same) <= infonce(same, same) + 1e-6 < 0.01
from frames_matter.model.weights import load_viclip
nano = load_viclip("nano")
with torch.no_grad(): assert nano.encode_video(torch.zeros(1, 8, 3, nano.config.image_size, nano.config.image_size)).shape[0] == 1
from frames_matter.study.lessons import lesson_paths
assert len(lesson_paths()) == 5 and "site-packages" in str(lesson_paths()[0])
print(frames_matter.__version__)
"""


def wheel():
    "the wheel, installed into a fresh environment and used outside the checkout"
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        env = {k: v for k, v in os.environ.items() if not k.startswith(("FRAMES_MATTER", "PYTHON", "VIRTUAL_ENV"))}
        sh(
            sys.executable, "-m", "build", "--outdir", d, ROOT
        )  # the wheel is built from the source distribution: nothing left in build/ gets in
        (built,) = d.glob("*.whl")
        print(f"{built.name}: {built.stat().st_size / 1e6:.1f} MB")
        sh(sys.executable, "-m", "venv", d / "env")
        python, command = d / "env" / "bin" / "python", d / "env" / "bin" / "frames-matter"
        sh(
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            built,
            "-c",
            ROOT / "constraints.txt",
            env=env,
        )
        (d / "elsewhere").mkdir()
        assert "reproduce" in sh(command, "--help", cwd=d / "elsewhere", env=env)
        print("version", sh(python, "-c", USE, cwd=d / "elsewhere", env=env).strip())
        print(sh(command, "doctor", cwd=d / "elsewhere", env=env).strip())
        sh(command, "dataset", "build", "--profile", "smoke", cwd=d / "elsewhere", env=env)
        assert (d / "elsewhere" / "data_manifest" / "smoke" / "clips.csv").is_file()


STEPS = [environment, export, clean, lessons, notebooks, alias, pytest, report, wheel]


def main(names):
    steps = [s for s in STEPS if not names or s.__name__ in names]
    failed, start = [], time.perf_counter()
    for i, step in enumerate(steps, 1):
        print(f"--- {i}/{len(steps)} {step.__name__}: {step.__doc__}", flush=True)
        began = time.perf_counter()
        try:
            step()
            result = "ok"
        except Exception as e:
            failed.append(step.__name__)
            result = f"FAILED: {e}" if isinstance(e, AssertionError) else f"FAILED: {type(e).__name__}: {e}"
        print(f"--- {step.__name__} {result} ({time.perf_counter() - began:.1f} s)", flush=True)
    print(f"make test took {time.perf_counter() - start:.0f} s" + (f"; failed: {', '.join(failed)}" if failed else ""))
    print(f"{len(steps) - len(failed)} passed, {len(failed)} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
