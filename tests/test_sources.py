"Sources of rows: registered once, asked rather than compared, cheap to import; a fifth one needs nothing but itself."

import ast
import dataclasses
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from fault_site import serve_faults

from frames_matter.base.errors import UserError
from frames_matter.base.profiles import get_profile, manifest_dir
from frames_matter.data.build import BuildTools, build_dataset
from frames_matter.data.manifest import load_manifest
from frames_matter.data.sources import SOURCES, GivenSource, source_of


def strings_compared_with_source(path):
    "Lines that compare an attribute `source` with a text, or use it as a key."
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        parts = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        is_source = [isinstance(p, ast.Attribute) and p.attr == "source" for p in parts]
        if any(is_source) and any(
            isinstance(constant, ast.Constant) and isinstance(constant.value, str)
            for p in parts
            for constant in ast.walk(p)
        ):
            yield node.lineno
        if isinstance(node, ast.Subscript) and getattr(node.slice, "attr", "") == "source":
            value = getattr(node.value, "id", getattr(getattr(node.value, "func", None), "id", ""))
            if value not in ("SOURCES", "resolve"):
                yield node.lineno


def test_nobody_asks_for_a_source_by_name(root):
    "What differs between sources is known to the sources; a module that compares names would have to know the fifth."
    package = root / "frames_matter"
    found = {str(p.relative_to(package)): list(strings_compared_with_source(p)) for p in package.rglob("*.py")}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_the_check_sees_what_it_looks_for(tmp_path):
    bad = ['p.source == "own"', 'p.source not in ("own", "hub")', "WHERE[p.source]"]
    good = ["a.source != b.source", 'resolve("data.sources:SOURCES")[p.source]', 'a.kind == "own"']
    (tmp_path / "bad.py").write_text("\n".join(bad + good))
    assert sorted(strings_compared_with_source(tmp_path / "bad.py")) == [1, 2, 3]


def test_import_is_cheap(tmp_path):
    heavy = ["torch", "pandas", "numpy", "decord", "yt_dlp"]
    code = f"import sys, frames_matter.data.sources; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_each_source_says_all_that_is_asked():
    "Words for tables and READMEs, each ended as its place wants it; and whose truth is known."
    assert list(SOURCES) == ["world", "hub", "own", "manifest"]
    for source in SOURCES.values():
        assert source.title and source.order and source.licence and source.naming and source.least
        assert source.notice.rstrip("*").endswith((".", "`published` are."))
        assert not source.licence.endswith(".")
    assert [s.name for s in SOURCES.values() if s.has_truth] == ["world"]
    assert [s.name for s in SOURCES.values() if not s.deals_splits] == ["manifest"]
    with pytest.raises(UserError, match="Unknown source of rows 'web'; valid: world, hub, own, manifest"):
        get_profile("mini", source="web")


class Films(GivenSource):
    "Films of a site, with addresses of their own."

    may_be_private = True  # its site is of this machine
    name = "films"
    title = "films of a site"
    notice = "Numbers of ours are of films of a site."
    order = "the films"
    licence = "that of the films"

    def given_rows(self, profile):
        names = [f"good{i}" for i in range(5)]
        row = dict(start=1.0, end=5.0, aesthetic_score=None, status="", reason="")
        rows = [row | dict(clip_id=f"{i}_clip", youtube_id=i, caption=f"The film {i}.") for i in names]
        return pd.DataFrame(rows).assign(address=[profile.rows + i for i in names])


def test_a_fifth_source(films, tmp_path, monkeypatch):
    "Registered in one line, it is built, dealt to splits, described and taken up where it stopped."
    monkeypatch.setenv("FRAMES_MATTER_HOME", str(tmp_path))
    monkeypatch.setattr(SOURCES, "_entries", dict(SOURCES))  # as it was, after the test
    SOURCES.register(Films())
    with serve_faults(films) as site:
        url = site.template.replace("{id}", "")
        P = get_profile("smoke", source="films", rows=url, n_pool=0, private_addresses=True)
        manifest = build_dataset(P, progress=False)
    assert list(manifest.status) == ["kept"] * 5 and set(manifest.split) == {"train", "alignment", "test"}
    assert list(manifest.address) == [f"{url}good{i}" for i in range(5)]
    about = (manifest_dir(P) / "README.md").read_text()
    assert "in the order of the films: 5 tried, 5 kept" in about and "Licence: that of the films." in about
    assert build_dataset(P, progress=False, tools=BuildTools(work=None)).equals(manifest)
    assert source_of(P).notice == Films.notice
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(UserError, match="no rebuild"):
        source_of(P).rotted(P)
    again = dataclasses.replace(P, name="again", source="manifest", rows=str(manifest_dir(P) / "clips.csv"))
    assert list(source_of(again).given_rows(again).split) == list(load_manifest(P).split)
