"""Builds the package from settings.ini, which holds the metadata and requirements.

pyproject.toml declares those fields dynamic.
"""

import json
import os
import re
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read(ROOT / "settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]
NAME = settings["name"]


def lines(key):
    "The non-empty lines of a setting."
    return [line for line in settings[key].splitlines() if line.strip()]


def without_outputs(notebook):
    "The text of a notebook as it is before it is run; its pictures are on the site, and would be a third of the wheel."
    content = json.loads(notebook.read_text(encoding="utf-8"))
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def address():
    "Of the repository: the one a workflow runs in, else pyproject.toml's."
    if here := os.environ.get("GITHUB_REPOSITORY"):
        return f"https://github.com/{here}"
    return re.search(r'^Repository = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)[1]


def with_whole_addresses(text):
    "README for a page outside the repository, such as PyPI's: links and pictures of files by their whole address."
    raw = address().replace("https://github.com/", "https://raw.githubusercontent.com/")

    def whole(link):
        mark, words, target = link.groups()
        if target.startswith(("#", "http:", "https:", "mailto:")):
            return link[0]
        return f"{mark}[{words}]({raw}/main/{target})" if mark else f"[{words}]({address()}/blob/main/{target})"

    return re.sub(r"(!?)\[((?:[^\[\]]|\[[^\]]*\]\([^)]*\))*)\]\(([^)\s]+)\)", whole, text)


class BuildWithLessons(build_py):
    "Puts the lessons into the package, so that an installed wheel can run them."

    def run(self):
        super().run()
        if self.editable_mode:
            return  # the checkout's own nbs/lessons are used
        folder = Path(self.build_lib) / NAME / "lessons"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for lesson in sorted((ROOT / "nbs" / "lessons").glob("*.ipynb")):
            (folder / lesson.name).write_text(without_outputs(lesson), encoding="utf-8")


readme = ROOT / "README.md"
setup(
    version=re.search(r'^__version__ = "(.+)"', (ROOT / NAME / "__init__.py").read_text(encoding="utf-8"), re.M)[1],
    description=settings["description"],
    long_description=with_whole_addresses(readme.read_text(encoding="utf-8"))
    if readme.is_file()
    else settings["description"],
    long_description_content_type="text/markdown",
    author=settings["author"],
    license_expression=settings["license"],
    keywords=settings["keywords"],
    classifiers=lines("classifiers"),
    packages=find_namespace_packages(include=[NAME, f"{NAME}.*"], exclude=["*.__pycache__"]),  # its assets too
    package_data={NAME: ["assets/*", "*.pyi", "py.typed"]},
    install_requires=lines("requirements"),
    extras_require={
        "dev": lines("dev_requirements"),
        "scale": lines("scale_requirements"),
        "search": lines("search_requirements"),
        "docs": lines("docs_requirements"),
    },
    entry_points={"console_scripts": lines("console_scripts"), "nbdev": [f"{NAME} = {NAME}._modidx:d"]},
    cmdclass={"build_py": BuildWithLessons},
)
