"""What would break or spoil the site, found without Quarto; and each check finds what it is there to find.

`python tests/site_checks.py --help` runs the same checks on a page or a folder. What nbdev makes of the notebooks for
Quarto is tried by the step `docs` of tests/all.py, which runs them once more on its result.
"""

import collections.abc
import dataclasses
import inspect
import json

import pytest
import yaml
from conftest import ROOT
from site_checks import CHECKS, configuration, page_faults, same_places, site_faults, templates
from site_pages import pandoc_id, read_site

from frames_matter._site import described, places, plain_tables, signature

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
TITLE = ("markdown", "# A page\n\n> What is on it.")
SECTION = ("markdown", "## A section\n\nWords.")


@pytest.fixture(scope="module")
def site():
    return read_site(ROOT / "nbs")


@pytest.mark.parametrize("name", CHECKS)
def test_pages(site, name):
    found = [str(fault) for page in site.pages for fault in page_faults(page, site, [name])]
    assert not found, f"{CHECKS[name].__doc__}\n" + "\n".join(found)


def test_the_site_as_a_whole(site):
    found = [str(fault) for fault in site_faults(site)]
    assert not found, "\n".join(found)


def test_there_are_pages(site):
    assert {p.parent.name for p in (ROOT / "nbs").glob("*/*.ipynb")} <= {p.path.split("/")[0] for p in site.pages}
    assert all(page.parts for page in site.pages)


# --- the deploy workflow ---


def deployment():
    return yaml.safe_load((ROOT / ".github" / "workflows" / "deploy.yaml").read_text(encoding="utf-8"))


def test_the_workflow_builds_the_site_as_make_docs_does():
    "It calls `make docs`, once, and nothing of nbdev or Quarto by itself; and it uploads the folder nbdev writes."
    from nbdev.config import get_config

    steps = [step for job in deployment()["jobs"].values() for step in job["steps"]]
    lines = [line.strip() for step in steps for line in step.get("run", "").splitlines()]
    assert lines.count("make docs") == 1
    assert not [line for line in lines if "quarto render" in line or "nbdev" in line]
    (upload,) = [step for step in steps if "upload-pages-artifact" in step.get("uses", "")]
    assert upload["with"]["path"] == get_config(ROOT).doc_path.name


# --- small pages on which each check must find something, and one on which none may ---


def output(**data):
    kinds = {"png": "image/png", "html": "text/html", "markdown": "text/markdown", "plain": "text/plain"}
    return {"output_type": "display_data", "metadata": {}, "data": {kinds[k]: v for k, v in data.items()}}


def write(folder, cells, name="page.ipynb"):
    "A notebook of cells (kind, source, outputs); text outputs may be given as they are."
    made = []
    for i, (kind, source, *outputs) in enumerate(cells):
        cell = {"cell_type": kind, "id": f"cell{i}", "metadata": {}, "source": source}
        if kind == "code":
            told = [output(plain=o) if isinstance(o, str) else o for o in outputs]
            cell |= {"execution_count": None, "outputs": told}
        made.append(cell)
    notebook = {"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(notebook), encoding="utf-8")
    return read_site(folder)


def markdown(text):
    return [TITLE, SECTION, ("markdown", text)]


def code(source, *outputs):
    return [TITLE, SECTION, ("code", source, *outputs)]


FIGURE = output(png=PIXEL, plain="<Figure>")
BAD = {
    "parses": [
        code('#| fig-cap: "not closed\ndraw()', "1"),
        code('#| fig-alt: "of\n#|   two lines"\ndraw()', "1"),
        [("raw", "---\ntitle: [\n---"), SECTION],
        [("raw", "---\n- a list\n---"), SECTION],
        [TITLE, SECTION, ("unknown", "a cell of no kind")],
    ],
    "headings": [
        [SECTION],
        [TITLE],
        [TITLE, SECTION, ("markdown", "# Again")],
        [TITLE, SECTION, ("code", "card", output(markdown="# Printed"))],
        [("markdown", "# A page\n\n> Of two\n> lines."), SECTION],
        [("markdown", "# A page\n\n> Told.\n\nWords that nobody will read."), SECTION],
    ],
    "lists": [markdown("Words:\n- one\n- two"), markdown("Words:\n1. one"), markdown("Words\n## More")],
    "unparsed": [
        code("sentence", "it **found something**"),
        code("table", output(html="<table><td>**bold**</td></table>")),
        code("link", "see [the page](page.ipynb)"),
        markdown("half **bold"),
    ],
    "links": [
        markdown("[no page](none.ipynb)"),
        markdown("[another folder](../page.ipynb)"),
        markdown("![a picture](none.png)"),
        markdown("[no heading](page.ipynb#none)"),
        markdown("[no heading here](#none)"),
        markdown("[a title has no anchor](#a-page)"),
        markdown("[by reference][x]\n\n[x]: none.ipynb"),
        markdown('<a href="none.html">HTML</a>'),
        markdown('<img src="none.png" alt="a picture">'),
        code("table", output(html='<a href="none.html">HTML</a>')),
        code("sentence", output(markdown="[no page](none.ipynb)")),
    ],
    "references": [markdown("as @fig-none shows"), markdown("[@tbl-none]")],
    "names": [
        markdown("`fm.no_such_name`"),
        markdown("`frames_matter.video.nothing`"),
        markdown("`fm.ViCLIP.nothing(video)`"),
        markdown("`Profile.nothing`"),
        markdown("`metrics.nothing`"),
        markdown("`a_name_that_is_nowhere`"),
        markdown("`ANameThatIsNowhere`"),
        markdown("`nowhere_called(1)`"),
        markdown("`frames-matter nothing`"),
        markdown("`make nothing`"),
        markdown("`nbs/nothing.ipynb`"),
        code("sentence", output(markdown="`fm.no_such_name`")),
    ],
    "wide": [
        code("sentence", "x" * 101),
        code("print(sentence)", {"output_type": "stream", "name": "stdout", "text": "a\n" + "x" * 101}),
        code("block", output(markdown="```\n" + "x" * 101 + "\n```")),
        code("block", output(html=f"<pre>{'x' * 101}</pre>")),
        code("block", output(html=f"<pre>{'x' * 60}<b>{'x' * 60}</b></pre>")),
        code("block", output(html=f'<div class="highlight"><pre>{"x" * 121}</pre></div>')),
        markdown("```python\n" + "x" * 121 + "\n```"),
    ],
    "missing": [
        code("table", output(html="<table><tr><td>1</td><td>NaN</td></tr></table>", plain="")),
        code("table", output(html="<table><tr><td>67.500000</td></tr></table>", plain="")),
        code("numbers", "a    1.0\nb    NaN\ndtype: float64"),
        code("numbers", "[1.0, nan, 2.0]"),
        code("numbers", "a    67.500000"),
    ],
    "machine": [
        code("path", "'/home/somebody/clips'"),
        code("path", "PosixPath('/tmp/x/clip.mp4')"),
        code("path", r"C:\clips\clip.mp4"),
        code("#| hide\npath", "/work/clips"),
        code("thing", "<Thing at 0x7f0123456789>"),
        code("table", output(html="<td>/tmp/x</td>")),
    ],
    "mains": [code("thing", "<class '__main__.Thing'>"), code("thing", output(markdown="`x: __main__.Thing`"))],
    "outputs": [
        [TITLE, SECTION],
        [TITLE, SECTION, ("code", "#| hide\n1", "1")],
        [TITLE, SECTION, ("code", "#| output: false\n1", "1")],
        code("1 / 0", {"output_type": "error", "ename": "E", "evalue": "", "traceback": ["E"]}),
        code("warn()", {"output_type": "stream", "name": "stderr", "text": "a bar"}),
    ],
    "alt": [
        code("draw()", FIGURE),
        code("#| fig-alt: one for two\ndraw()", FIGURE, FIGURE),
        code('#| fig-alt: ["one"]\ndraw()', FIGURE, FIGURE),
        code("#| echo: false\n#| fig-alt:\ndraw()", FIGURE),
        markdown("![](picture.png)"),
        markdown('<img src="picture.png">'),
        code("draw()", output(html="<svg><path/></svg>")),
    ],
    "captions": [code("#| fig-alt: a line\ndraw()", FIGURE)],
    "outside": [
        markdown('<script src="https://example.org/x.js"></script>'),
        markdown('<link rel="stylesheet" href="//example.org/x.css">'),
        markdown("![a picture](https://example.org/x.png)"),
        code("table", output(html="<style>@import url('https://example.org/x.css');</style>")),
        code("table", output(html="<style>@font-face {src: url(https://example.org/x.woff)}</style>")),
        code("table", output(html='<iframe src="https://example.org"></iframe>')),
    ],
}
GOOD = [
    ("markdown", "# A page\n\n> What is on it."),
    ("markdown", "## A section\n\nOf `fm.ViCLIP` and `k`, [below](#more-of-it), as @fig-line shows.\n\n- one\n- two"),
    ("code", "#| exports\ndef documented():\n    pass"),
    (
        "markdown",
        "See [its documentation](page.html#documented), [home](index.qmd#start), **bold** and [a site](https://a.org).",
    ),
    ("code", '#| label: fig-line\n#| fig-cap: "A line: it falls"\n#| fig-alt: A line that falls.\ndraw()', FIGURE),
    ("code", '#| fig-cap: two\n#| fig-alt: ["one", "two"]\ndraw()', FIGURE, FIGURE),
    ("code", "#| hide\nsetup()", "x" * 200, FIGURE),
    ("code", "#| output: false\nsetup()", "x" * 200),
    ("code", "source", output(html=f'<div class="highlight"><pre>{"x" * 120}\n{"x" * 120}</pre></div>')),
    ("markdown", "Options as <code>\\*\\*options</code>."),
    ("code", "sentence", "A matrix must not hold NaN, it says; .../clips/clip.mp4 lies at 12.50000 or [1, 2]."),
    ("code", "sentence", output(markdown="**Bold**, and `ViCLIPConfig`", plain="<Markdown>" * 20)),
    ("code", "table", output(html='<table><tr><td>1.5</td></tr></table><img src="picture.png" alt="a dot">')),
    ("markdown", "## More of it {#more-of-it}\n\n![A dot.](picture.png) and $a_b = c_d$"),
]


@pytest.mark.parametrize("name, cells", [(name, cells) for name, pages in BAD.items() for cells in pages])
def test_a_check_finds(tmp_path, name, cells):
    site = write(tmp_path, cells)
    (tmp_path / "picture.png").touch()
    found = list(page_faults(site.pages[0], site, [name]))
    assert {(fault.page, fault.check) for fault in found} == {("page.ipynb", name)}


def test_an_include_from_elsewhere_is_found(tmp_path):
    (tmp_path / "words.md").write_text("Words.")
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "index.qmd").write_text("---\ntitle: Home\n---\n\n{{< include ../words.md >}}\n")
    site = read_site(folder)
    assert "words.md" in str(*page_faults(site.pages[0], site, ["parses"]))


def test_every_check_has_something_to_find():
    assert BAD.keys() == CHECKS.keys()


def test_nothing_is_found_on_a_good_page(tmp_path):
    (tmp_path / "picture.png").touch()
    (tmp_path / "index.qmd").write_text("---\ntitle: Home\n---\n\n## Start\n\n[the page](page.ipynb#a-section)\n")
    site = write(tmp_path, GOOD)
    found = [str(fault) for page in site.pages for fault in page_faults(page, site)]
    assert [p.path for p in site.pages] == ["index.qmd", "page.ipynb"] and not found


def test_a_table_that_asks_for_scripts_is_found_once_it_is_staged(tmp_path):
    write(tmp_path, GOOD)
    site = read_site(tmp_path, staged=True)
    assert [fault.cell for fault in page_faults(site.pages[0], site, ["outside"])] == [8, 12]


def test_a_prefix_of_numbers_is_not_on_the_site(tmp_path):
    write(tmp_path, [TITLE, SECTION], "01_page.ipynb")
    links = "[by its file](01_page.ipynb#a-section), [by its place](page.html), [neither](page.ipynb)"
    site = write(tmp_path, markdown(links), "other.ipynb")
    assert [fault.what for fault in page_faults(site.pages[1], site, ["links"])] == ["link page.ipynb leads nowhere"]


def test_two_pages_at_one_place_are_found(tmp_path):
    write(tmp_path, GOOD, "01_page.ipynb")
    site = write(tmp_path, GOOD, "02_page.ipynb")
    assert [fault.page for fault in same_places(site)] == ["01_page.ipynb", "02_page.ipynb"]


@pytest.mark.parametrize(
    "settings",
    [
        {"format": {"html": {"theme": "cosmo"}}},
        {"format": {"html": {"theme": {"light": "default", "dark": ["darkly", "dark.scss"]}}}},
        {"format": {"html": {"html-math-method": "mathjax"}}},
        {"format": {"html": {"html-math-method": None}}},
        {"format": {"html": {"css": "none.css"}}},
        {"format": {"html": {"include-in-header": [{"text": "<script src='https://a.org/x.js'></script>"}]}}},
        {"format": {"html": {"css": "https://fonts.example.org/css2"}}},
        {"website": {"sidebar": {"contents": [{"section": "S", "contents": ["none.ipynb"]}]}}},
        {"website": {"sidebar": {"contents": ["none/*.ipynb"]}}},
        {"website": {"navbar": {"left": [{"href": "none.qmd"}]}}},
    ],
)
def test_configuration_finds(tmp_path, settings):
    site = write(tmp_path, GOOD)
    html = {"theme": "default", "html-math-method": "mathml"} | settings.get("format", {}).get("html", {})
    (tmp_path / "dark.scss").touch()
    assert list(configuration(site, settings | {"format": {"html": html}}))
    assert not list(configuration(site, {"format": {"html": {"html-math-method": "mathml", "css": "dark.scss"}}}))


@pytest.mark.parametrize(
    "name, text",
    [
        ("a.scss", "@import 'https://fonts.example.org/css2';"),
        ("a.css", "body {background: url(//example.org/x.png)}"),
        ("a.html", '<script src="https://example.org/x.js"></script>'),
    ],
)
def test_templates_find(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    (tmp_path / f"good_{name}").write_text("<a href='https://example.org'>read</a> body {background: url(x.png)}")
    assert [fault.page for fault in templates([tmp_path])] == [name]


@pytest.mark.parametrize(
    "text, name",
    [
        ("Which of this carries over?", "which-of-this-carries-over"),
        ("3 ways, and `fm.load`", "ways-and-fm.load"),
        ("H-NAC & InfoNCE", "h-nac-infonce"),
        ("1.", "section"),
    ],
)
def test_identifiers_are_pandoc_s(text, name):
    assert pandoc_id(text.replace("`", "")) == name


# --- what nbdev shows of an exported name ---


def example(clips: "list[str] | None", /, k: int = 8, *, seed=0, **options: collections.abc.Sequence) -> int:
    """What it does.

    More of it, about `clips`.

    Parameters
    ----------
    clips : list of str
        A path each,
        or none.
    **options
        One | another.

    Raises
    ------
    UserError
        If there is none.
    """


def test_a_signature_stands_as_it_was_written():
    told = signature(example, "module.example")
    assert told == "def example(clips: list[str] | None, /, k: int = 8, *, seed=0, **options: Sequence) -> int"


def test_a_long_signature_has_a_parameter_a_line():
    import frames_matter as fm

    told = signature(fm.Profile, "Profile").splitlines()
    assert told[:2] == ["class Profile(", "    name: str,"] and told[-1] == ")"
    assert len(told) == len(dataclasses.fields(fm.Profile)) + 2 and "Meta" not in "".join(told)


def test_links_to_methods_lead_to_their_class(tmp_path):
    class Thing:
        def does(self):
            pass

    site = write(tmp_path, code("show_doc(Thing)", output(markdown=f"### Thing\n\n{places(Thing, 'Thing')}")))
    assert {"thing", "thing.does"} <= site.pages[0].anchors and places(example, "example") == ""


def test_sections_of_a_docstring_are_tables():
    words, parameters, raises = described(inspect.getdoc(example))
    assert words == "What it does.\n\nMore of it, about `clips`."
    assert parameters.splitlines()[2:] == [
        "| <code>clips</code> | <code>list of str</code> | A path each, or none. |",
        "| <code>\\*\\*options</code> |  | One \\| another. |",
    ]
    assert "| <code>UserError</code> |  | If there is none. |" in raises
    (told,) = described("Returns\n-------\ndict\n    foil_<kind>, and `a < b`.")
    assert told.endswith("| foil_\\<kind>, and `a < b`. |"), "a tag would vanish from the page"


def test_a_table_becomes_part_of_the_page(tmp_path):
    table = {"output_type": "display_data", "data": {"text/html": "<table>\n<td>NaN</td></table>", "text/plain": "a"}}
    cell = {"outputs": [table, {"output_type": "stream", "name": "stdout", "text": "a"}]}
    plain_tables(cell)
    assert cell["outputs"][0]["data"] == {"text/markdown": "```{=html}\n<table>\n<td>NaN</td></table>\n```"}
    site = write(tmp_path, code("table", cell["outputs"][0]))
    assert not list(page_faults(site.pages[0], site, ["outside"])), "no script is loaded for it"
    assert list(page_faults(site.pages[0], site, ["missing"])), "and what is in it is still read"


@pytest.mark.parametrize("page, fold", [("base/hub", "true"), ("lessons/03_first_improvement", "show")])
def test_exported_source_is_closed_in_the_library_and_open_in_lessons(page, fold):
    from fastcore.nbio import read_nb
    from nbdev.processors import FilterDefaults

    notebook = read_nb(ROOT / "nbs" / f"{page}.ipynb")
    FilterDefaults()(notebook)
    exported = [cell.source for cell in notebook.cells if '"Exported source"' in cell.source]
    assert exported and all(source.startswith(f"#| code-fold: {fold}\n") for source in exported)
