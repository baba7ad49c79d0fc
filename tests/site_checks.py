"""What can be wrong with the site's pages, a check at a time; each gets pages and tells faults by page and cell.

python tests/site_checks.py                            every page
python tests/site_checks.py nbs/study nbs/cli.ipynb    these pages
python tests/site_checks.py --only links,alt nbs/labs  these checks
python tests/site_checks.py --staged _proc             pages as nbdev prepares them for Quarto
"""

import argparse
import ast
import builtins
import importlib
import itertools
import keyword
import re
import sys
import warnings
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

import nbformat
import yaml
from site_pages import INCLUDE, MARKDOWN, Tags, flat, is_html, page_files, read_site, texts, title_of

ROOT = Path(__file__).resolve().parent.parent
WIDEST = 100  # characters of a preformatted line
WIDEST_CODE = 120  # of one of code, as in the notebooks
WITHOUT_WEB_FONTS = {"default", "none", "cerulean", "litera", "pulse", "quartz", "slate"}  # of Quarto's themes


class Fault(NamedTuple):
    page: str
    cell: int | None
    check: str
    what: str

    def __str__(self):
        where = self.page if self.cell is None else f"{self.page} cell {self.cell}"
        return f"{where}: {self.check}: {self.what}"


CHECKS = {}


def check(function):
    "Register a check: from a page and its site, (cell, what is wrong)."
    CHECKS[function.__name__] = function
    return function


def short(text, length=90):
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 3] + "..."


# --- a page as such ---


@check
def parses(page, site):
    "It can be read; the options at the head of its cells are YAML, a line each."
    if page.broken:
        yield None, page.broken
    path = site.root / page.path
    if path.suffix == ".ipynb" and not page.staged:
        try:
            nbformat.validate(nbformat.read(path, as_version=4))
        except Exception as e:
            yield None, f"not a notebook: {short(str(e))}"
    elif path.is_file():
        for name in INCLUDE.findall(path.read_text(encoding="utf-8")):
            if site.root.resolve() not in (path.parent / name).resolve().parents:
                yield None, f"includes {name}, which is not there when nbdev renders pages in copies of their folder"
    for cell in page.cells:
        for name, value in cell.options.items():
            try:
                assert re.fullmatch(r"[\w-]+", name), "not the name of an option; one line each"
                yaml.safe_load(f"{name}: {value}")
            except Exception as e:
                yield cell.number, f"option `{name}: {short(value, 40)}`: {short(str(e), 60)}"


@check
def headings(page, site):
    "One title, at least one section, no level left out, and nothing in the cell of the title that nbdev drops."
    if not page.meta.get("title"):
        yield None, "no title"
    for cell, level, text, _ in page.headings:
        if level == 1:
            yield cell, f"a second title: {short(text)}"
    levels = [level for _, level, _, _ in page.headings]
    if 2 not in levels and page.meta.get("toc") is not False:
        yield None, "no section (`## `), so no table of contents"
    if "_cell" in page.meta:
        yield from ((page.meta["_cell"].number, f"nbdev drops: {short(line)}") for line in dropped(page.meta["_cell"]))


def dropped(cell):
    "Lines of the title's cell that get lost: all but title, description and fields."
    told = title_of(cell.source)
    kept = {f"# {told['title']}", f"> {told.get('description')}"}
    lines = [" ".join(line.split()) for line in cell.source.splitlines() if line.strip()]
    return [line for line in lines if line not in kept and not re.match(r"- \S.*:.*\S$", line)]


@check
def lists(page, site):
    "Pandoc takes a list or heading that follows a line of text without a blank line for more text."
    for part, tokens in page.markdown:
        for before, after in zip(tokens, tokens[1:], strict=False):
            opens = after.type in ("bullet_list_open", "ordered_list_open", "heading_open")
            if before.type == "paragraph_close" and opens and after.level == 0:
                inline = tokens[tokens.index(before) - 1]
                if inline.map and after.map and inline.map[1] == after.map[0]:
                    yield part.cell, f"no blank line before: {short(part.text.splitlines()[after.map[0]])}"


@check
def unparsed(page, site):
    "No Markdown that is shown as it was typed."
    marks = re.compile(r"\*\*[^*\s][^*]*\*\*|\]\([\w./#-]+\)")
    for part in page.parts:
        if part.kind == "text/plain" and (found := marks.search(part.text)):
            yield part.cell, f"printed: {short(found[0])}"
    for part, html in page.html:
        if part.is_output and (found := marks.search(" ".join(word for word, _ in html.words))):
            yield part.cell, f"in HTML: {short(found[0])}"
    for part, _ in page.markdown:
        for token in flat(MARKDOWN.parse(part.text.replace("\\*", ""))):  # one that is meant is written so
            if token.type == "text" and "**" in token.content:
                yield part.cell, f"`**` without its other half: {short(token.content)}"


# --- links ---


HTML_LINKS = {
    "a": "href",
    "img": "src",
    "script": "src",
    "link": "href",
    "source": "src",
    "video": "src",
    "iframe": "src",
}


def page_links(page):
    "(cell, tag, address) of every link and picture."
    for part, tokens in page.markdown:
        for token in flat(tokens):
            if token.type == "link_open":
                yield part.cell, "a", token.attrs["href"]
            if token.type == "image":
                yield part.cell, "img", token.attrs["src"]
    for part, html in page.html:
        for tag, attributes in html.tags:
            if attributes.get(HTML_LINKS.get(tag)):
                yield part.cell, tag, attributes[HTML_LINKS[tag]]


@check
def links(page, site):
    "Every link and picture resolves from where the page stands, to the anchor too."
    for cell, tag, address in page_links(page):
        if address.startswith("attachment:"):
            continue
        target, anchor, trouble = site.target(page, address)
        if trouble:
            yield cell, f"{'picture' if tag == 'img' else 'link'} {address} {trouble}"
        elif anchor and hasattr(target, "anchors") and anchor not in target.anchors:
            yield cell, f"link {address}: no such heading or label"


REFERENCE = re.compile(r"(?<![\w`@/.])-?@((?:fig|tbl|sec|eq|lst|thm|exr|exm)-[\w:.-]*\w)")


@check
def references(page, site):
    "Every cross-reference (`@fig-name`) has its label, and every label its figure."
    known = page.anchors | {
        name for p in site.pages for name in p.anchors if name.startswith(("fig-", "tbl-", "sec-", "eq-"))
    }
    for part, tokens in page.markdown:
        for token in flat(tokens):
            if token.type == "text":
                for name in REFERENCE.findall(token.content):
                    if name not in known:
                        yield part.cell, f"@{name} refers to nothing"


# --- names ---


@cache
def vocabulary():
    "Every name that code and configuration of the package use: a name in backticks that is none of them is stale."
    words = set()
    for path in [p for folder in ("frames_matter", "tests", "bench") for p in (ROOT / folder).rglob("*.py*")]:
        if path.suffix in (".py", ".pyi") and path.name not in ("_modidx.py", "test_site.py"):
            words |= words_of(path.read_text(encoding="utf-8"))
    for name in ("settings.ini", "pyproject.toml", "Makefile", "constraints.txt", "_quarto.yml"):
        words |= set(re.findall(r"\w+", (ROOT / name).read_text(encoding="utf-8")))
    words |= {*dir(builtins), *keyword.kwlist}
    words |= {name for thing in public().values() if isinstance(thing, type) for name in dir(thing)}  # inherited too
    files = [p for folder in ("data_manifest", "results", "tests", "bench", "nbs") for p in (ROOT / folder).rglob("*")]
    return words | {word for p in files for word in re.findall(r"\w+", p.name)}


def words_of(code):
    "Names, attributes, arguments and words of strings; not those of docstrings and comments."
    try:
        tree = ast.parse(code)
    except SyntaxError:  # IPython's own
        return set(re.findall(r"\w+", code))
    words, documentation = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            documentation.add(node.body[0].value)
        names = [getattr(node, key, None) for key in ("id", "attr", "arg", "name", "asname", "module")]
        names += [node.value] if isinstance(node, ast.Constant) and node not in documentation else []
        words |= {word for name in names if isinstance(name, str) for word in re.findall(r"\w+", name)}
    return words


@cache
def public():
    "Public name -> its object, of the face and of every module."
    import frames_matter as fm
    from frames_matter._modidx import d

    found = {name: getattr(fm, name) for name in dir(fm) if not name.startswith("_")}
    for module, symbols in d["syms"].items():
        for symbol in symbols:
            name = symbol.removeprefix(f"{module}.")
            if "." not in name and not name.startswith("_"):
                found.setdefault(name, getattr(importlib.import_module(module), name, None))
    return found


@cache
def subpackages():
    return {p.name for p in (ROOT / "frames_matter").iterdir() if p.is_dir()}


def resolves(name):
    "Whether a dotted name of the package leads to something."
    first, *steps = name.split(".")
    if first not in ("fm", "frames_matter") and first in subpackages():
        first, steps = "fm", [first, *steps]
    found = importlib.import_module("frames_matter") if first in ("fm", "frames_matter") else public()[first]
    for i, step in enumerate(steps):
        fields = getattr(found, "__dataclass_fields__", {}) | getattr(found, "__annotations__", {})
        if step in fields:
            return True  # what type it has is not asked
        if not hasattr(found, step):
            try:
                found = importlib.import_module(".".join(["frames_matter", *steps[: i + 1]]))
                continue
            except ImportError:
                return False
        found = getattr(found, step)
    return True


FILES = {
    ".csv",
    ".json",
    ".jsonl",
    ".parquet",
    ".tar",
    ".mp4",
    ".txt",
    ".md",
    ".ipynb",
    ".yaml",
    ".safetensors",
    ".pth",
}
SHOWN = ("text/plain", "text/html")  # outputs that name columns, keys and fields
NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*)\s*(?:[(\[=].*)?", re.S)


def stale(span, own):
    """What is wrong with a span of code, if it looks like the package's and is not there.

    `fm.X`, `frames_matter.a.b`, and `X.y` where X is public or a subpackage, are looked up. Another name counts as the
    package's if it is written in snake_case, in CamelCase or as a call: it must occur in code, be it a field, an
    argument or a word in a string. A path that begins with a folder of the checkout must be there.
    """
    command = re.fullmatch(r"(?:\.venv/bin/)?(make|frames-matter) ([a-z][a-z-]*)\b.*", span, re.S)
    if command:
        return "" if command[2] in commands()[command[1]] else "no such command"
    if re.fullmatch(r"(?:nbs|tests|bench|frames_matter|\.github)/[\w./-]+", span):
        return "" if (ROOT / span).exists() else "is not there"
    match = NAME.fullmatch(span.strip())
    if not match:
        return ""
    name = match[1]
    first, dot, _ = name.partition(".")
    if first in ("fm", "frames_matter") or (dot and (first in public() or first in subpackages())):
        return "" if resolves(name) or Path(name).suffix in FILES else "does not resolve"
    looks = re.search(r"[A-Za-z0-9]_[A-Za-z0-9]|[a-z][A-Z]|^[A-Z][a-z]{2,}", name) or "(" in span
    if dot or not looks:
        return ""
    return "" if name in vocabulary() or name in own else "occurs nowhere in the code"


@cache
def commands():
    "The commands of `make` and of `frames-matter`."
    from test_workflows import subcommands, targets

    return {"make": targets(), "frames-matter": subcommands()}


@check
def names(page, site):
    "Every code name in backticks that looks like the package's is there."
    own = {word for cell in page.cells if cell.kind == "code" for word in words_of(cell.code)}
    own |= {word for part in page.parts if part.kind in SHOWN for word in re.findall(r"\w+", part.text)}
    for part, tokens in page.markdown:
        for token in flat(tokens):
            if token.type == "code_inline" and (trouble := stale(token.content, own)):
                yield part.cell, f"`{token.content}` {trouble}"


# --- outputs ---


def preformatted(page):
    "(cell, text, widest) of what is shown letter by letter: text outputs, and blocks of Markdown or HTML."
    for part in page.parts:
        if part.kind == "text/plain":
            yield part.cell, part.text, WIDEST
    for part, tokens in page.markdown:
        blocks = [t for t in flat(tokens) if t.type in ("fence", "code_block") and not is_html(t)]
        yield from ((part.cell, t.content, WIDEST_CODE if t.info else WIDEST) for t in blocks)
    for part, html in page.html:
        is_code = any("highlight" in (attributes.get("class") or "") for _, attributes in html.tags)
        for is_pre, words in itertools.groupby(html.words, key=lambda word: word[1]):
            if is_pre:
                yield part.cell, "".join(word for word, _ in words), WIDEST_CODE if is_code else WIDEST


@check
def wide(page, site):
    "No preformatted line that the page's edge cuts."
    for cell, text, widest in preformatted(page):
        line = max(text.splitlines(), key=len, default="")
        if len(line) > widest:
            yield cell, f"a line of {len(line)} characters: {short(line, 60)}"


@check
def missing(page, site):
    "No NaN in a table or among printed values, and no number as pandas leaves it."
    nothing = re.compile(r"(?:^|[\[(=]| {2}|, )(NaN|nan|NaT|<NA>)(?=$|[\])]| {2}|, (?=[\d-]|nan))", re.M)
    for part in page.parts:
        if part.kind == "text/plain" and (found := nothing.search(part.text)):
            line = next(line for line in part.text.splitlines() if nothing.search(line))
            yield part.cell, f"{found[1]} in {short(line)}"
        if part.kind == "text/plain" and (found := re.search(r"^.*(?<![\w.])\d+\.\d*0{5,}\b.*$", part.text, re.M)):
            yield part.cell, f"not rounded: {short(found[0])}"
    for part, html in page.html:
        entries = [entry.strip() for entry in html.table_cells]
        if found := [entry for entry in entries if entry in ("NaN", "nan", "NaT", "<NA>", "None")]:
            yield part.cell, f"{len(found)} times {found[0]} in a table"
        if found := [entry for entry in entries if re.fullmatch(r"-?\d+\.\d{6,}", entry)]:
            yield part.cell, f"not rounded: {found[0]} in a table"


@check
def machine(page, site):
    "No path of a machine and no address in memory in an output, shown or not."
    paths = re.compile(r"(?<![\w.])/(?:home|tmp|work|root|Users|private|var/folders)/\S*|\b[A-Z]:\\\S*")
    for cell in page.cells:
        for text in [text for output in cell.outputs for text in texts(output)]:
            if found := paths.search(text) or re.search(r"\bat 0x[0-9a-f]{6,}|ipykernel_\d+", text):
                yield cell.number, short(found[0])
                break


@check
def mains(page, site):
    "No `__main__.` in a signature or another output."
    for part in page.parts:
        if part.is_output and (found := re.search(r"__main__\.\w*", part.text)):
            yield part.cell, f"{found[0]} in an output"


@check
def outputs(page, site):
    "A notebook was executed and shows something; no output is an error that nobody meant."
    if page.path.endswith(".ipynb") and not any(part.is_output for part in page.parts):
        yield None, "nothing is shown: no visible output"
    for cell in page.cells:
        if "raises-exception" not in cell.tags and any(o["output_type"] == "error" for o in cell.outputs):
            yield cell.number, "an error among the outputs"
        if cell.shows("output") and any(o.get("name") == "stderr" for o in cell.outputs):
            yield cell.number, "a warning, or another line for a terminal's eyes, among the outputs"


# --- pictures ---


def told(cell, option):
    "For how many pictures an option of a cell has words."
    value = yaml.safe_load(cell.options.get(option) or "''")
    return len([v for v in value if v]) if isinstance(value, list) else bool(value) * max(1, cell.images == 1)


@check
def alt(page, site):
    "Every picture says in words what is on it: `#| fig-alt` of a cell, the text of a Markdown image, `alt` in HTML."
    for cell in page.cells:
        if told(cell, "fig-alt") < cell.images:
            yield cell.number, f"{cell.images} pictures, {told(cell, 'fig-alt')} with `#| fig-alt`"
    for part, tokens in page.markdown:
        for token in flat(tokens):
            if token.type == "image" and not token.content.strip():
                yield part.cell, f"![]({token.attrs['src']}) without alt text"
    for part, html in page.html:
        if part.kind == "text/html" or not part.is_output:
            yield from ((part.cell, trouble) for trouble in silent_pictures(html))


def silent_pictures(html):
    "Pictures in HTML without a text: `alt` of an image, `aria-label`, a title or `aria-hidden` of a drawing."
    has_title = any(tag == "title" for tag, _ in html.tags)
    for tag, attributes in html.tags:
        if tag == "img" and "alt" not in attributes:
            yield f"<img src={short(attributes.get('src') or '', 30)}> without alt"
        if tag == "svg" and not has_title and not {"aria-label", "aria-hidden", "aria-labelledby"} & attributes.keys():
            yield "<svg> without aria-label"


@check
def captions(page, site):
    "Every figure that a cell draws has a caption: `#| fig-cap`."
    for cell in page.cells:
        if cell.images and not told(cell, "fig-cap"):
            yield cell.number, "a figure without `#| fig-cap`"


# --- nothing of another host ---


LOADED = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "object": "data",
}


def loaded(text):
    "Addresses of other hosts that HTML or a style sheet loads by itself; links that a reader follows are none."
    html = Tags(text)
    for tag, attributes in html.tags:
        address = attributes.get(LOADED.get(tag)) or ""
        if re.match(r"(?:https?:)?//", address):
            yield f"<{tag}> {address}"
    yield from re.findall(r"@import\s+(?:url\()?['\"]?(?:https?:)?//[^\s'\")]+", text)
    yield from re.findall(r"url\(\s*['\"]?(?:https?:)?//[^\s'\")]+", text)


@check
def outside(page, site):
    "No script, style, font or picture of another host; and no HTML output, for which Quarto loads two scripts."
    for part in page.parts:
        if part.kind != "code" and part.kind != "text/plain":
            yield from ((part.cell, found) for found in dict.fromkeys(loaded(part.text)))
    for part, tokens in page.markdown:
        for token in flat(tokens):
            if token.type == "image" and re.match(r"(?:https?:)?//", token.attrs["src"]):
                yield part.cell, f"a picture of another host: {token.attrs['src']}"
    for cell in page.cells:
        kinds = {kind for o in cell.outputs for kind in o.get("data", {})} if cell.is_seen else set()
        for kind in kinds & {"text/html", "application/javascript", "application/vnd.jupyter.widget-view+json"}:
            if page.staged:
                yield cell.number, f"{kind}: Quarto adds require.js and jQuery from another host to the page"


# --- the site as a whole ---


def same_places(site):
    "No two pages at one place of the site."
    places = Counter(page.output for page in site.pages)
    for page in site.pages:
        if places[page.output] > 1:
            yield Fault(page.path, None, "places", f"another page is written to {page.output} too")


def configuration(site, settings):
    "What _quarto.yml names is there, and nothing in it makes pages ask another host."
    html = (settings.get("format") or {}).get("html") or {}
    if html.get("html-math-method") not in ("mathml", "plain"):
        yield "html-math-method: formulas are drawn by a script of another host"
    themes = html.get("theme", "default")
    themes = themes.values() if isinstance(themes, dict) else [themes]
    for theme in [t for choice in themes for t in (choice if isinstance(choice, list) else [choice])]:
        if not theme.endswith((".scss", ".css")) and theme not in WITHOUT_WEB_FONTS:
            yield f"theme {theme} asks for web fonts"
    for text in every_string(settings):
        yield from loaded(text)
        if re.match(r"(?:https?:)?//", text) and re.search(r"\.(?:css|js|woff2?|ttf)\b|fonts\.", text):
            yield f"{text} is of another host"
        elif re.fullmatch(r"[\w./*-]+\.(?:ipynb|qmd|md|s?css|js|html|svg|png|ico|lua)", text):
            here = text.lstrip("/")
            if not list(site.root.glob(here)) and here not in site.by_path:
                yield f"{text} is not there"


def every_string(settings):
    "All strings in nested settings."
    if isinstance(settings, str):
        yield settings
    elif isinstance(settings, dict | list):
        for value in settings.values() if isinstance(settings, dict) else settings:
            yield from every_string(value)


def templates(folders):
    "Style sheets, scripts and templates of the site and of the package ask no other host for anything."
    kinds = (".html", ".css", ".scss", ".js", ".j2", ".lua")
    for path in sorted(p for folder in folders for p in folder.rglob("*") if p.suffix in kinds):
        for found in loaded(path.read_text(encoding="utf-8")):
            yield Fault(path.name, None, "templates", found)


def site_faults(site):
    "What is wrong with the site besides its pages."
    yield from same_places(site)
    settings = site.root / "_quarto.yml"
    if settings.is_file():
        told = yaml.safe_load(settings.read_text(encoding="utf-8"))
        yield from (Fault("_quarto.yml", None, "configuration", what) for what in configuration(site, told))
    yield from templates([site.root, ROOT / "frames_matter"])


def page_faults(page, site, only=None):
    "Everything that the checks find on a page; of one that cannot be read only that."
    for name in ["parses"] if page.broken else only or CHECKS:
        found = dict.fromkeys(CHECKS[name](page, site))
        yield from (Fault(page.path, cell, name, what) for cell, what in found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, help="pages or folders of pages; all of them if none is named")
    parser.add_argument("--only", default="", help=f"checks, with commas between; of: {', '.join(CHECKS)}")
    parser.add_argument("--staged", type=Path, help="read nbdev's `_proc` in place of nbs/")
    told = parser.parse_args()
    site = read_site(told.staged or ROOT / "nbs", staged=bool(told.staged))
    only = [name for name in told.only.split(",") if name]
    wanted = {p.resolve() for path in told.paths for p in (page_files(path) if path.is_dir() else [path])}
    pages = [p for p in site.pages if not told.paths or (site.root / p.path).resolve() in wanted]
    if not pages or set(only) - CHECKS.keys():
        parser.error("no such page" if not pages else f"no such check; there are {', '.join(CHECKS)}")
    found = [fault for page in pages for fault in page_faults(page, site, only)]
    found += [] if told.paths or only else site_faults(site)
    print(*found, sep="\n")
    counts = Counter(fault.check for fault in found)
    print(
        f"\n{len(found)} faults on {len(pages)} pages", *(f"{n:5} {name}" for name, n in counts.most_common()), sep="\n"
    )
    return 1 if found else 0


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
