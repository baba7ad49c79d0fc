"""LICENSES.md: the licence of every package that is installed for this one, as its own metadata states it.

python tests/licences.py    writes the tables anew from what is installed
"""

import re
from collections import defaultdict

from lock import ROOT, closure, requirements
from packaging.utils import canonicalize_name

LICENCES = ROOT / "LICENSES.md"
FOR = {"": "all", "dev": "working on it", "scale": "the extra scale", "search": "the extra search"}
LONGEST = 120  # letters of a licence; who writes more there has put its text into the field of its name
SAME = {  # other people's words for one licence that says itself which it is
    **dict.fromkeys(["Apache", "Apache 2", "Apache 2.0", "Apache Software License"], "Apache-2.0"),
    **dict.fromkeys(["Apache 2.0 License", "Apache License, Version 2.0"], "Apache-2.0"),
    **{"MIT License": "MIT", "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0"},
    **dict.fromkeys(["BSD 3-Clause License", "3-Clause BSD License"], "BSD-3-Clause"),
    **dict.fromkeys(["ISC license", "ISC License", "ISC License (ISCL)"], "ISC"),
    **dict.fromkeys(["BSD", "BSD License"], "BSD, no more is said"),
}


def licence(metadata):
    "The licence that a package's metadata names: as an expression, in a word or as a classifier."
    written = (metadata["License"] or "").strip()
    is_name = written and "\n" not in written and len(written) < 40 and written not in ("UNKNOWN", "BSD")
    if metadata["License-Expression"] or is_name:
        named = metadata["License-Expression"] or written
    else:
        classes = [c.split(" :: ")[-1] for c in metadata.get_all("Classifier") or () if c.startswith("License ::")]
        named = next((c for c in classes if c != "OSI Approved"), written)
    return SAME.get(named, named)[:LONGEST]


def asked_for():
    "What this package itself asks for: name -> for whom."
    found = {}
    for extra, reader in FOR.items():
        for name in requirements("frames_matter", {extra} if extra else ()):
            found.setdefault(canonicalize_name(name), reader)
    return found


def table_asked(distributions):
    "A row a package that is asked for."
    rows = [(name, licence(distributions[name].metadata), reader) for name, reader in sorted(asked_for().items())]
    return "\n".join(["| package | licence | for |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)])


def table_others(distributions):
    "A row a licence of what those ask for in turn."
    found = defaultdict(list)
    for name, distribution in distributions.items():
        if name not in asked_for():
            found[licence(distribution.metadata)].append(name)
    rows = [f"| {named} | {', '.join(names)} |" for named, names in sorted(found.items())]
    return "\n".join(["| licence | packages |", "|---|---|", *rows])


def written(text):
    "The file with its tables as they are here."
    distributions = closure()
    for name, table in (("asked", table_asked(distributions)), ("others", table_others(distributions))):
        between = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", re.S)
        text = between.sub(lambda found, table=table: found[1] + table + found[2], text)
    return text


if __name__ == "__main__":
    LICENCES.write_text(written(LICENCES.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"{len(closure())} packages in {LICENCES.name}")
