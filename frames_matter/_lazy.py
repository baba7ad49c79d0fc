"""A subpackage offers what its modules export, and imports each of them only when something of it is asked for.

`from frames_matter.data import build_dataset` works though frames_matter/data/__init__.py lists nothing: the names are
read from the modules' own `__all__`, when the first is asked for.
"""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def modules_of(package: str) -> dict[str, Path]:
    "The modules of a subpackage by name, and their files."
    folders = import_module(package).__path__
    files = (path for folder in folders for path in sorted(Path(folder).glob("*.py")))
    return {path.stem: path for path in files if not path.stem.startswith("_")}


def exported(path: Path) -> list[str]:
    "The names in the `__all__` of a module that is not imported for it."
    import ast

    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and [ast.unparse(target) for target in statement.targets] == ["__all__"]:
            return ast.literal_eval(statement.value)
    return []


def homes_of(package: str) -> dict[str, list[str]]:
    "Each public name of a subpackage's modules, and the modules that have something of this name."
    homes: dict[str, list[str]] = {}
    for module, path in modules_of(package).items():
        for name in exported(path):
            homes.setdefault(name, []).append(module)
    return homes


def attach(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """What a subpackage's `__init__` calls `__getattr__` and `__dir__` (PEP 562).

    A module's own name is the module, as everywhere in Python, also where another module has something of that name.

    Parameters
    ----------
    package : str
        The subpackage's `__name__`.
    """
    found: dict[str, list[str]] = {}

    def homes() -> dict[str, list[str]]:
        if not found:
            found.update({module: [] for module in modules_of(package)})
            found.update({name: at for name, at in homes_of(package).items() if name not in found})
        return found

    def __getattr__(name: str) -> Any:
        if name == "__all__":
            return sorted(homes())
        if name.startswith("_") or name not in homes():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        at = homes()[name]
        if len(at) > 1:
            raise AttributeError(f"{' and '.join(at)} of {package!r} each have a {name!r}; import it from one of them")
        return getattr(import_module(f"{package}.{at[0]}"), name) if at else import_module(f"{package}.{name}")

    def __dir__() -> list[str]:
        return sorted(homes())

    return __getattr__, __dir__
