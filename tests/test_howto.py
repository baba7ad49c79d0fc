"The how-to pages are short, in one form, and run; the glossary says of the code what is so."

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from conftest import ROOT

from frames_matter.base.profiles import TEMPERATURE, get_profile
from frames_matter.metrics.stats import LEAST_SEEDS, MARGIN, VERDICTS
from frames_matter.model.protocols import PROTOCOLS, Protocol
from frames_matter.world.scenes import FACT_KINDS

PAGES = sorted((ROOT / "nbs" / "howto").glob("*.ipynb"))
GLOSSARY = (ROOT / "nbs" / "glossary.qmd").read_text(encoding="utf-8")
MOST_LINES, COLUMNS = 60, 120


def cells(page, kind=""):
    "(cell, its text) of a page."
    all_cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    return [(cell, "".join(cell["source"])) for cell in all_cells if kind in cell["cell_type"]]


def lines_of(text):
    "How many lines a text fills, empty ones not counted: one that is longer than the columns fills several."
    return sum(math.ceil(len(line) / COLUMNS) for line in text.splitlines() if line.strip())


@pytest.fixture(params=PAGES, ids=lambda page: page.stem)
def page(request):
    return request.param


def test_the_pages_are_there():
    named = {"own_clips", "gpu_run", "new_strategy", "new_loss", "new_laboratory", "read_runs"}
    assert named <= {page.stem for page in PAGES}


def test_a_page_is_short(page):
    "Prose and code of all cells together."
    assert sum(lines_of(text) for _, text in cells(page)) < MOST_LINES


def test_lines_are_counted_as_they_are_read():
    assert lines_of("a\n\n" + "b" * (COLUMNS + 1)) == 3


def test_a_page_has_the_form_of_its_kind(page):
    "A title with a quoted line, sections, nothing exported, code that was run and shows something."
    (_, first), code = cells(page, "markdown")[0], cells(page, "code")
    assert re.fullmatch(r"# [^\n]+\n\n> [^\n]+", first)
    assert any(re.search("^## ", text, re.M) for _, text in cells(page, "markdown"))
    assert not any(re.search(r"^#\| *(default_exp|exports?|exporti)\b", text, re.M) for _, text in code)
    assert any(cell["outputs"] for cell, _ in code)


def test_commands_of_a_page_exist(page):
    from test_workflows import subcommands

    shell = "\n".join(re.findall(r"^```sh\n(.*?)^```$", "\n".join(t for _, t in cells(page)), re.M | re.S))
    called = set(re.findall(r"^frames-matter ([a-z]+)", shell, re.M))
    assert called <= subcommands(), called - subcommands()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["new_strategy", "new_loss", "new_laboratory"])
def test_what_contributing_links_runs(name, smoke_home):
    "Anywhere, and what it does stays apart from the study's results."
    command = [Path(sys.executable).parent / "nbdev-test", f"nbs/howto/{name}.ipynb", "--n-workers", "1"]
    env = os.environ | {"FRAMES_MATTER_HOME": str(smoke_home), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [folder.name for folder in (smoke_home / "results").iterdir()] == ["howto"]
    assert (smoke_home / "results" / "howto" / "runs.jsonl").stat().st_size


def test_contributing_names_them():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert all(f"(nbs/howto/{name}.ipynb)" in text for name in ("new_strategy", "new_loss", "new_laboratory"))


# --- the glossary ---


def entries():
    "(term, what is said of it)."
    return re.findall(r"^\[([^\]]+)\]\{#[\w-]+\}\n:   (.+)$", GLOSSARY, re.M)


def said_of(term):
    return dict(entries())[term]


def test_every_entry_has_an_address_of_its_own():
    ids = re.findall(r"\{#([\w-]+)\}", GLOSSARY)
    assert len(ids) == len(set(ids)) >= len(entries()) > 60
    assert len(entries()) == len(re.findall(r"^:   ", GLOSSARY, re.M)), "a definition without a term"


def test_the_glossary_leads_somewhere():
    ids = set(re.findall(r"\{#([\w-]+)\}", GLOSSARY))
    for link in re.findall(r"\]\(([^)\s]+)\)", GLOSSARY):
        file, _, anchor = link.partition("#")
        assert (ROOT / "nbs" / file).exists() if file else anchor in ids, link


def test_whoever_sends_readers_to_the_glossary_sends_them_to_an_entry():
    ids = set(re.findall(r"\{#([\w-]+)\}", GLOSSARY))
    for page in (ROOT / "nbs").rglob("*.ipynb"):
        sent = re.findall(r"glossary\.qmd#([\w-]+)", page.read_text(encoding="utf-8"))
        assert set(sent) <= ids, f"{page.name}: {set(sent) - ids}"


def test_the_glossary_says_what_the_code_does():
    "Numbers and names that stand there and have a home in the code."
    assert all(f"*{verdict}*" in said_of("verdict") for verdict in VERDICTS)
    assert f"The {MARGIN:g} points" in said_of("equivalence bound")
    assert PROTOCOLS.keys() <= dict(entries()).keys() and len(fields(Protocol)) == 9
    assert "nine switches" in said_of("protocol") and LEAST_SEEDS == 3 and "fewer than three seeds" in said_of("seed")
    assert PROTOCOLS["published"].eval_mask_ratio == 0.9 and "nine tenths" in said_of("masking")
    assert f"the study's is {TEMPERATURE}" in said_of("temperature")
    assert len(FACT_KINDS) == 7 and "seven kinds" in said_of("fact")
    assert get_profile("mini").k == 8 and "eight of them by default" in said_of("frame strategy")
