"""How nbdev shows this package on its site; pyproject.toml names what is here, and nothing of the package imports it.

A signature stands as it was written, without the modules of its types; what a docstring says of each parameter is a
table, where nbdev leaves underlined words that would become headings. Tables of cells come as a part of the page, for
which Quarto loads no script of another host.
"""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

from nbdev.config import get_config
from nbdev.process import Processor
from nbdev.showdoc import BasicMarkdownRenderer

WIDEST = 96  # characters of a signature's line
_MODULES = re.compile(r"~|\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])")


class Documentation(BasicMarkdownRenderer):
    "What the site shows of an exported function or class."

    def _repr_markdown_(self) -> str:
        source = re.match(r"---\n\n(?:\[source\].*\n\n)?", super()._repr_markdown_())[0]
        if not get_config().git_url:
            source = "---\n\n"  # a link to the source would lead nowhere
        heading = f"{'#' * self.title_level} {self.nm}"
        block = f"```python\n{signature(self.sym, self.nm)}\n```"
        shown = [source.rstrip(), heading, places(self.sym, self.nm), block]
        return "\n\n".join([*filter(None, shown), *described(inspect.getdoc(self.sym) or "")])


def places(thing: Any, name: str) -> str:
    "Where nbdev's links to the methods of a class lead: to the class."
    own = vars(thing) if isinstance(thing, type) else {}
    return "".join(f"[]{{#{name}.{method}}}".lower() for method in own if not method.startswith("_"))


def signature(thing: Any, name: str) -> str:
    "A signature on one line, or a parameter a line."
    keyword = "class" if isinstance(thing, type) else "def"
    name = name.rpartition(".")[2]
    try:
        told = inspect.signature(thing)
    except (TypeError, ValueError):
        return f"{keyword} {name}"
    words = _parameters(told, _types(thing))
    returned = _types(thing).get("return", told.return_annotation)
    end = "" if keyword == "class" or returned is told.empty else f" -> {_annotation(returned)}"
    line = f"{keyword} {name}({', '.join(words)}){end}"
    if len(line) <= WIDEST:
        return line
    rows = "".join(f"    {word},\n" for word in words)
    return f"{keyword} {name}(\n{rows}){end}"


def _types(thing: Any) -> dict[str, Any]:
    "The types of parameters, without what a check is told beside them."
    try:
        return get_type_hints(thing.__init__ if isinstance(thing, type) else thing)
    except (NameError, TypeError, AttributeError):
        return {}


def _parameters(told: inspect.Signature, types: dict[str, Any]) -> list[str]:
    "Each parameter with its type and default; `/` and `*` where they stand."
    words, was = [], None
    for parameter in told.parameters.values():
        kind = parameter.kind
        if was == kind.POSITIONAL_ONLY != kind:
            words.append("/")
        if kind == kind.KEYWORD_ONLY and was not in (kind.KEYWORD_ONLY, kind.VAR_POSITIONAL):
            words.append("*")
        star = {kind.VAR_POSITIONAL: "*", kind.VAR_KEYWORD: "**"}.get(kind, "")
        annotation = types.get(parameter.name, parameter.annotation)
        typed = "" if annotation is parameter.empty else f": {_annotation(annotation)}"
        equals = " = " if typed else "="
        default = "" if parameter.default is parameter.empty else f"{equals}{_default(parameter.default)}"
        words.append(f"{star}{parameter.name}{typed}{default}")
        was = kind
    return words


def _annotation(annotation: Any) -> str:
    "A type without the modules it is from."
    annotation = None if annotation is type(None) else annotation  # as it was written
    told = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return _MODULES.sub("", told)


def _default(value: Any) -> str:
    "A default as code, as far as it is short."
    if callable(value) and hasattr(value, "__name__"):
        return value.__name__
    told = repr(value)
    if told.startswith("<"):
        return "..."
    return told if len(told) <= 40 and "__main__" not in told else f"{type(value).__name__}(...)"


def described(docstring: str) -> Iterator[str]:
    "The paragraphs of a NumPy docstring, and a table for each of its sections."
    words, *rest = re.split(r"^([A-Z]\w+(?: \w+)*)\n-{3,}\n", docstring, flags=re.M)
    if words.strip():
        yield words.strip()
    for section, text in zip(rest[::2], rest[1::2], strict=True):
        yield _table(section, text)


def _table(section: str, text: str) -> str:
    "A table of what a section lists: name and type, each with what is indented below it."
    rows = [f"| {section} | | |", "|:--|:--|:----|"]
    for entry in re.split(r"\n+(?=\S)", text.strip()):
        head, *lines = entry.splitlines()
        name, _, kind = head.partition(" : ")
        told = " ".join(line.strip() for line in lines)
        rows.append(f"| <code>{_cell(name)}</code> | {f'<code>{_cell(kind)}</code>' if kind else ''} | {_cell(told)} |")
    return "\n".join(rows)


def _cell(text: str) -> str:
    "Text that a table's row can hold; `<` outside of code would begin a tag."
    text = re.sub(r"`[^`]*`|<", lambda found: "\\<" if found[0] == "<" else found[0], text)
    return text.replace("|", "\\|").replace("*", "\\*")


def plain_tables(cell: Any) -> None:
    "Make HTML outputs a part of the page: whatever comes as HTML has Quarto load require.js and jQuery."
    for output in cell.get("outputs", []):
        html = output.get("data", {}).get("text/html")
        if html:
            text = html if isinstance(html, str) else "".join(html)
            output["data"] = {"text/markdown": f"```{{=html}}\n{text.strip()}\n```"}


class FoldedSource(Processor):
    "Close the exported source on pages of the library, whose table says what its docstring says; lessons teach by it."

    def cell(self, cell: Any) -> None:
        if cell.cell_type == "code" and "lessons" not in Path(self.nb.path_).parts:
            cell.source = cell.source.replace(
                '#| code-fold: show\n#| code-summary: "Exported source"',
                '#| code-fold: true\n#| code-summary: "Exported source"',
            )
