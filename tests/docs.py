"""The site, into _docs/: what `make docs` and the workflow of the site run.

It is built in a copy of the checkout, which stays as it is: the copy gets the downloads beside their pages, and the
address of the repository that it is built in, where GITHUB_REPOSITORY names another than pyproject.toml does.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from all import BIN, ROOT, copy_of_sources

from frames_matter.report.site import put_downloads

ADDRESS = re.search(r'^Repository = "https://github.com/(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]
WRITTEN = {".ipynb", ".qmd", ".yml", ".toml", ".md"}  # files that may hold the address
ELSEWHERE = re.compile(
    rb"""<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=["'](?:https?:)?//[^"']+["'][^>]*>"""
)
MERELY_NAMED = re.compile(rb"""rel=["'](?:canonical|alternate|license)["']""")


def copy_to(folder: Path) -> Path:
    "The files of the site, which may be rewritten."
    copy_of_sources(folder)
    (folder / "nbs" / "_quarto.yml").unlink(missing_ok=True)  # a link, which some checkouts hold as a file
    shutil.copy(ROOT / "_quarto.yml", folder / "nbs")
    put_downloads("mini", folder / "nbs" / "results")
    return folder


def readdress(folder: Path, address: str) -> None:
    "Name another repository wherever this one is named, and where its pages are."
    for path in [*folder.glob("*.*"), *(folder / "nbs").rglob("*.*")]:
        if path.suffix in WRITTEN and path.is_file() and not path.is_symlink():
            text = path.read_text(encoding="utf-8")
            if ADDRESS in text:
                path.write_text(text.replace(ADDRESS, address), encoding="utf-8")
    quarto = folder / "nbs" / "_quarto.yml"
    here = f"site-path: /{address.partition('/')[2]}/"
    quarto.write_text(re.sub(r"site-path: .*", here, quarto.read_text(encoding="utf-8")), encoding="utf-8")


def asked_elsewhere(pages: Path) -> list[str]:
    "What pages ask of other hosts: a script, a font, a picture."
    found = []
    for page in sorted(pages.rglob("*.html")):
        tags = [tag for tag in ELSEWHERE.findall(page.read_bytes()) if not MERELY_NAMED.search(tag)]
        found += [f"{page.relative_to(pages)}: {tag.decode()[:120]}" for tag in tags]
    for sheet in sorted(pages.rglob("*.css")):
        if re.search(rb"(?:@import|url\()\s*[\"']?(?:url\([\"']?)?https?:", sheet.read_bytes()):
            found.append(str(sheet.relative_to(pages)))
    return found


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="site_") as folder:
        copy = copy_to(Path(folder))
        if address := os.environ.get("GITHUB_REPOSITORY"):
            readdress(copy, address)
        env = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(copy)}
        for command in (["nbdev-export"], ["nbdev-docs", "--n-workers", "1"]):  # one worker is the faster
            subprocess.run(command, cwd=copy, env=env, check=True)
        shutil.rmtree(ROOT / "_docs", ignore_errors=True)
        shutil.move(copy / "_docs", ROOT / "_docs")
    if found := asked_elsewhere(ROOT / "_docs"):
        print("These pages ask other hosts:", *found, sep="\n", file=sys.stderr)
        return 1
    print(f"{sum(1 for _ in (ROOT / '_docs').rglob('*.html'))} pages in _docs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
