"""The pages of the site as a reader sees them, read without Quarto.

A page is read from its source under nbs/, or from what nbdev made of it for Quarto (a folder `_proc`), where links to
names and the signatures of exported cells are in. What nbdev and Quarto show of a cell is decided as they decide it:
a hidden cell is not there, an exported one (`export`) shows only what its definitions are, the first H1 is the title.
"""

import ast
import posixpath
import re
from dataclasses import dataclass, field
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml
from fastcore.nbio import read_nb
from markdown_it import MarkdownIt
from nbdev.config import nbpath2html

MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
SUFFIXES = (".ipynb", ".qmd", ".md")
UNSEEN = {"hide", "export", "exporti", "default_exp"}  # nbdev takes these cells out of the page
RICHEST = ["text/html", "image/svg+xml", "image/png", "image/jpeg", "text/markdown", "text/latex", "text/plain"]
FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.S)
INCLUDE = re.compile(r"\{\{<\s*include\s+(\S+)\s*>\}\}")
EXPLICIT_ID = re.compile(r"\{[^{}]*#([\w:.-]+)[^{}]*\}")
ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


@dataclass(frozen=True)
class Part:
    "One thing on a page: `kind` is markdown, code, or the MIME type of an output."

    kind: str
    text: str
    cell: int
    is_output: bool = False


class Tags(HTMLParser):
    "The tags of a piece of HTML with their attributes, its text, and the text of its table cells."

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.table_cells, self.open = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open.append(tag)
        if tag in ("td", "th"):
            self.table_cells.append("")

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag):
        if tag in self.open:
            del self.open[len(self.open) - 1 - self.open[::-1].index(tag) :]

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append((data, "pre" in self.open))
        if {"td", "th"} & set(self.open):
            self.table_cells[-1] += data


@dataclass
class Cell:
    "A cell with the options that stand at its head."

    number: int
    id: str
    kind: str
    source: str
    options: dict = field(default_factory=dict)
    outputs: list = field(default_factory=list)
    tags: list = field(default_factory=list)

    @property
    def code(self):
        "The source without its options, and without lines that nbdev hides."
        lines = [line for line in self.source.splitlines() if not re.match(r"\s*#\|", line)]
        return "\n".join(line for line in lines if not re.search(r"#\|\s*hide_line\s*$", line)).strip()

    @property
    def is_seen(self):
        return not (UNSEEN & self.options.keys() or self.options.get("include") == "false")

    def shows(self, what):
        "Whether `echo`, its code, or `output` is on the page."
        return self.is_seen and self.options.get(what) != "false"

    @property
    def images(self):
        "How many pictures its visible outputs are."
        return sum(is_output_image(o) for o in self.outputs) if self.shows("output") else 0


def rich(output):
    "The MIME type that is shown of an output, and its text."
    if output["output_type"] == "stream":
        return "text/plain", output["text"]
    if output["output_type"] == "error":
        return "text/plain", "\n".join(output["traceback"])
    kind = next((kind for kind in RICHEST if output["data"].get(kind)), "other")
    return kind, output["data"].get(kind, "")


def is_output_image(output):
    return rich(output)[0].startswith("image/")


def texts(output):
    "Every text of an output, shown or not."
    if output["output_type"] in ("stream", "error"):
        return [rich(output)[1]]
    return [str(text) for kind, text in output["data"].items() if kind.startswith("text/") or kind.endswith("+xml")]


@dataclass
class Page:
    "A page: its path below the folder, its front matter, its cells."

    path: str
    meta: dict
    cells: list
    staged: bool = False
    broken: str = ""  # what keeps it from being read

    @property
    def output(self):
        "Where it stands on the site."
        named = self.meta.get("output-file")
        if named:
            return posixpath.join(posixpath.dirname(self.path), named)
        made = nbpath2html(self.path) if self.path.endswith(".ipynb") else Path(self.path).with_suffix(".html")
        return made.as_posix()

    @cached_property
    def parts(self):
        "What a reader sees, in order."
        parts = []
        for cell in self.cells:
            if cell.kind == "markdown":
                parts.append(Part("markdown", cell.source, cell.number))
            elif cell.kind == "code":
                if cell.shows("echo") and cell.code:
                    parts.append(Part("code", cell.code, cell.number))
                if cell.shows("output"):
                    parts += [shown(o, cell) for o in cell.outputs]
        return parts

    @cached_property
    def markdown(self):
        "Its Markdown with the parsed tokens: (part, tokens)."
        return [(part, MARKDOWN.parse(part.text)) for part in self.parts if part.kind == "markdown"]

    @cached_property
    def html(self):
        "Its HTML, of outputs and within Markdown: (part, tags)."
        found = [(part, Tags(part.text)) for part in self.parts if part.kind in ("text/html", "image/svg+xml")]
        for part, tokens in self.markdown:
            text = "\n".join(t.content for t in flat(tokens) if is_html(t))
            found += [(part, Tags(text))] if text else []
        return found

    @cached_property
    def headings(self):
        "(cell, level, text, id) of every heading, ids as pandoc makes them."
        found, seen = [], {}
        for part, tokens in self.markdown:
            for mark, inline in zip(tokens, tokens[1:], strict=False):
                if mark.type == "heading_open":
                    text = plain(inline)
                    given = EXPLICIT_ID.search(inline.content)
                    name = given[1] if given else pandoc_id(EXPLICIT_ID.sub("", text))
                    seen[name] = seen.get(name, -1) + 1
                    name += f"-{seen[name]}" if seen[name] else ""
                    found.append((part.cell, int(mark.tag[1]), text, name))
        return found

    @cached_property
    def anchors(self):
        "Everything that a link can point at."
        found = {name for _, _, _, name in self.headings}
        for part, _ in self.markdown:
            found |= set(EXPLICIT_ID.findall(part.text))
        for _, html in self.html:
            found |= {
                value for _, attributes in html.tags for key, value in attributes.items() if key in ("id", "name")
            }
        for cell in self.cells:
            if "label" in cell.options:
                found.add(cell.options["label"].strip("\"'"))
            if not self.staged:
                found |= {name.lower() for name in documented(cell)}
        return found


def shown(output, cell):
    "What is seen of an output. What says `output: asis` is Markdown."
    kind, text = rich(output)
    if kind == "text/markdown" or cell.options.get("output") == "asis":
        kind = "markdown"
    return Part(kind, ANSI.sub("", text), cell.number, is_output=True)


def is_html(token):
    return token.type in ("html_block", "html_inline") or (token.type == "fence" and token.info.strip() == "{=html}")


def flat(tokens):
    "The tokens with those inside them."
    for token in tokens:
        yield token
        yield from flat(token.children or [])


def plain(inline):
    "The text of an inline token without its marks."
    return "".join(t.content if t.type != "softbreak" else " " for t in inline.children or [])


def pandoc_id(text):
    "The identifier that pandoc gives a heading."
    name = re.sub(r"[^\w\s.-]", "", text.strip()).lower()
    return re.sub(r"^[^a-z]*", "", re.sub(r"\s+", "-", name)) or "section"


def documented(cell):
    "The names that nbdev documents for an exported cell."
    if not {"export", "exports"} & cell.options.keys() or "hide" in cell.options:
        return []
    nodes = [n for n in ast.parse(cell.code).body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    return [n.name for n in nodes if not n.name.startswith("_") or n.name.startswith("__")]


# --- reading ---


def read_page(path, root, staged=False):
    "A page from its file; one that cannot be read says why in `broken`."
    name = path.relative_to(root).as_posix()
    try:
        cells = notebook_cells(path) if path.suffix == ".ipynb" else document_cells(path)
        meta, cells = front_matter(cells)
    except Exception as e:
        return Page(name, {}, [], staged, f"{type(e).__name__}: {e}".splitlines()[0])
    return Page(name, meta, cells, staged)


def notebook_cells(path):
    cells = []
    for i, c in enumerate(read_nb(path).cells):
        options = c.directives if c.cell_type == "code" else {}
        tags = list(c.metadata.get("tags", []))
        cells.append(Cell(i, c.id, c.cell_type, c.source, options, list(c.get("outputs", [])), tags))
    return cells


def document_cells(path):
    "The front matter and the text of a document, with what it includes in its place."
    text = INCLUDE.sub(lambda m: (path.parent / m[1]).read_text(encoding="utf-8"), path.read_text(encoding="utf-8"))
    head = FRONT_MATTER.match(text)
    cells = [Cell(0, "", "raw", head[0])] if head else []
    return [*cells, Cell(1, "", "markdown", text[head.end() if head else 0 :])]


def front_matter(cells):
    "What is told of the page in raw cells, or as nbdev reads it from the cell of the title; and the other cells."
    meta, kept = {}, []
    for cell in cells:
        head = FRONT_MATTER.match(cell.source.strip()) if cell.kind == "raw" else None
        if head:
            told = yaml.safe_load(head[1])
            assert isinstance(told, dict), "front matter is not a mapping"
            meta |= told
        elif cell.kind == "markdown" and cell.id and "title" not in meta and (title := title_of(cell.source)):
            meta |= title | {"_cell": cell}
        else:
            kept.append(cell)
    return meta, kept


def title_of(source):
    "Title, description and fields of a cell that nbdev makes front matter of."
    title = re.search(r"^#\s+(\S.*?)\s*$", source, re.M)
    if not title:
        return {}
    description = re.search(r"^>\s+(\S.*?)\s*$", source, re.M)
    fields = yaml.safe_load("\n".join(re.findall(r"^-\s+(\S.*:.*\S)\s*$", source, re.M))) or {}
    return {"title": title[1]} | ({"description": description[1]} if description else {}) | fields


@dataclass
class Site:
    "All pages below a folder, and the folder's files, which links may point at."

    root: Path
    pages: list
    url: str = ""  # where names are linked to by nbdev
    packages: tuple = ("frames_matter",)

    @cached_property
    def by_path(self):
        return {p.path: p for p in self.pages} | {p.output: p for p in self.pages}

    def target(self, page, link):
        "(page or file or None, anchor, trouble) of a link on a page; of one to another site (None, '', '')."
        if self.url and link.startswith(self.url):
            link = "/" + link[len(self.url) :].lstrip("/")
        parts = urlsplit(link)
        if parts.scheme or link.startswith("//"):
            return None, "", ""
        anchor = unquote(parts.fragment)
        if not parts.path:
            return page, anchor, ""
        here = "" if parts.path.startswith("/") else posixpath.dirname(page.path)
        path = posixpath.normpath(posixpath.join(here, unquote(parts.path).lstrip("/")))
        if path.startswith(".."):
            return None, anchor, "leaves nbs/"
        found = self.by_path.get(path) or self.by_path.get(posixpath.join(path, "index.html").removeprefix("./"))
        if found:
            return found, anchor, ""
        unstaged = any(step.startswith(("_", ".")) for step in path.split("/"))
        if (self.root / path).is_file() and not unstaged:
            return self.root / path, anchor, ""
        if (download := download_of(path)).is_file():
            return download, anchor, ""
        return None, anchor, "leads nowhere"


def download_of(path):
    "The file of results/ that `make docs` puts where a page of results offers it."
    results = Path(__file__).resolve().parent.parent / "results" / "mini"
    folder, name = posixpath.split(path)
    if folder != "results/files":
        return results / "nothing"
    return results / "tables" / name if name.endswith(".csv") else results / name


def page_files(root):
    "The files that become pages; nbdev leaves out what begins with `_` or `.`."
    found = sorted(p for p in root.rglob("*") if p.suffix in SUFFIXES)
    return [p for p in found if not any(step.startswith(("_", ".")) for step in p.relative_to(root).parts)]


def read_site(root, staged=False):
    "Every page below a folder."
    from frames_matter._modidx import d

    root = Path(root)
    url = d["settings"]["doc_host"] + d["settings"]["doc_baseurl"]
    return Site(root, [read_page(p, root, staged) for p in page_files(root)], "" if url == "/" else url)
