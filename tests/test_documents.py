"What README and CONTRIBUTING say is so: their examples run, their links lead somewhere, the layout is the tree."

import os
import re
import subprocess
import sys

import ffmpeg
import pytest
from conftest import ROOT

from frames_matter.base.ffmpeg import find_ffmpeg
from frames_matter.base.profiles import get_profile
from frames_matter.report.reader import published

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMUNITY = ["LICENSES.md", "SECURITY.md", "CODE_OF_CONDUCT.md"]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def examples(text):
    "The Python examples of a document."
    return re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A folder with two seconds of video in it."
    folder = tmp_path_factory.mktemp("documents")
    source = ffmpeg.input("testsrc=s=96x64:r=10:d=2", f="lavfi")
    file = source.output(str(folder / "clip.mp4"), vcodec="libx264", pix_fmt="yuv420p")
    file.global_args("-v", "error").run(cmd=find_ffmpeg())
    return folder


def run(code, folder):
    env = os.environ | {"FRAMES_MATTER_HOME": str(folder)}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True)


HOME = (ROOT / "nbs" / "index.qmd").read_text(encoding="utf-8")


@pytest.mark.parametrize("code", [examples(README)[1], examples(HOME)[0]], ids=["README", "the home page"])
def test_examples_run(code, folder):
    done = run(code, folder)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"-?\d\.\d+", done.stdout)
    assert len(rows) == 2, "one cosine for each of the two captions"


@pytest.mark.slow
@pytest.mark.parametrize("code", examples(CONTRIBUTING))
def test_examples_of_contributing_run(code, folder):
    done = run(code, folder)
    assert done.returncode == 0, done.stderr


def test_the_examples_are_there():
    assert len(examples(README)) == 2 and len(examples(HOME)) == 1 and len(examples(CONTRIBUTING)) == 3


def test_readme_is_read_in_a_few_minutes():
    assert len(README.splitlines()) <= 150
    assert README.index("## Limits") < README.index("## Results")
    assert len(re.findall(r"^### ", README, re.M)) == 3, "three tables; the others are on the site"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *COMMUNITY])
def test_links_lead_somewhere(name):
    text = re.sub(r"^```.*?^```$", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.M)}
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("#"):
            assert link[1:] in headings, link
        elif not link.startswith("http"):
            assert (ROOT / link).exists(), link


def layout():
    "Each path of the layout."
    block = re.search(r"^## Layout$.*?^```text\n(.*?)^```$", CONTRIBUTING, re.M | re.S)[1]
    return [line.split()[0] for line in block.splitlines()]


def test_the_layout_is_the_tree():
    "Every folder of notebooks, and every folder at the top."
    told = layout()
    assert len(told) == len(set(told)) and all((ROOT / path).exists() for path in told)
    folders = {f"nbs/{p.name}/" for p in (ROOT / "nbs").iterdir() if p.is_dir() and not p.name.startswith((".", "_"))}
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    top = {f"{file.split('/')[0]}/" for file in files if "/" in file and not file.startswith((".", "nbs/"))}
    assert set(told) == folders | top | {"nbs/cli.ipynb"}


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_what_is_to_be_called_exists(text):
    from test_workflows import subcommands, targets

    shell = (
        "\n".join(re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S))
        + "\n"
        + "\n".join(re.findall(r"`([^`\n]+)`", text))
    )
    made = set(re.findall(r"^make ([a-z]+)", shell, re.M))
    called = set(re.findall(r"^(?:\.venv/bin/)?frames-matter ([a-z]+)", shell, re.M))
    assert made and made <= targets(), made - targets()
    assert called <= subcommands(), called - subcommands()


def test_the_learning_rate_is_so_many_times_the_study_s():
    times = get_profile("mini").learning_rate / published()["setup"]["learning_rate"]
    assert times == pytest.approx(5)
    assert "five times the study's" in README
