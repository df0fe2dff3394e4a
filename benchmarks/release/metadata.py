"""What the archives say of themselves, and whether every place says the same version."""

from __future__ import annotations

import re
import tomllib
from email import message_from_string
from pathlib import Path
from zipfile import ZipFile

from archives import Built
from pythons import supported, text
from running import Failed, run

NEEDED = (
    "Name",
    "Version",
    "Summary",
    "Author",
    "License-Expression",
    "License-File",
    "Keywords",
    "Classifier",
    "Project-URL",
    "Requires-Python",
    "Requires-Dist",
    "Provides-Extra",
    "Description-Content-Type",
)
"""Fields of core metadata that a reader of a package index sees or a resolver needs."""
TOPICS = ("Development Status", "Intended Audience", "Operating System", "Topic", "Typing")
RENDER = """
import re, sys
from pathlib import Path
from readme_renderer.markdown import render
html = render(Path(sys.argv[1]).read_text(encoding="utf-8"))
links = re.findall(r'(?:href|src)="([^"]+)"', html or "")
print(len(html or ""), sum(not link.startswith(("http", "#", "mailto:")) for link in links))
"""
_HEADING = re.compile(r"^## \[(.+?)\](?: - (\d{4}-\d{2}-\d{2}))?\s*$", re.M)


def versions(root: Path) -> dict[str, str]:
    """The version as each place of a checkout says it, without importing lightkv.

    `pyproject.toml` gives none of its own: it names the attribute of `lightkv/__init__.py`.

    Raises:
        Failed: a place says none, or the changelog has something that is not released yet.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text())
    attribute = project["tool"]["setuptools"]["dynamic"]["version"]["attr"]
    if "version" not in project["project"]["dynamic"] or attribute != "lightkv.__version__":
        raise Failed("pyproject.toml does not take the version of lightkv.__version__")
    return {
        "lightkv.__version__": _said(root, "lightkv/__init__.py", r'^__version__ = "(.+)"$'),
        "CITATION.cff": _said(root, "CITATION.cff", r"^version: (\S+)$"),
        "CHANGELOG.md": newest_release((root / "CHANGELOG.md").read_text(encoding="utf-8")),
    }


def _said(root: Path, name: str, pattern: str) -> str:
    found = re.findall(pattern, (root / name).read_text(encoding="utf-8"), re.M)
    if len(found) != 1:
        raise Failed(f"{name} says the version {len(found)} times")
    return str(found[0])


def newest_release(changelog: str) -> str:
    """The version of the newest heading of a changelog, which must have a day.

    Raises:
        Failed: nothing is released, or there are changes above the newest release.
    """
    headings = list(_HEADING.finditer(changelog))
    if not headings:
        raise Failed("CHANGELOG.md has no heading such as ## [0.2.0] - 2026-11-28")
    first, *rest = headings
    if first[1] == "Unreleased":
        end = rest[0].start() if rest else len(changelog)
        if changelog[first.end() : end].strip():
            raise Failed(
                "CHANGELOG.md has changes under [Unreleased]; name that heading after the version, "
                "with the day"
            )
        if not rest:
            raise Failed("CHANGELOG.md has no release")
        first = rest[0]
    if first[2] is None:
        raise Failed(f"the heading of {first[1]} in CHANGELOG.md has no day")
    return str(first[1])


def check_versions(built: Built) -> str:
    """Sources, wheel and source archive are of one version.

    Raises:
        Failed: they are not.
    """
    said = versions(built.sources)
    for path in (built.wheel, built.sdist):
        said[path.name] = path.name.removesuffix(".tar.gz").split("-")[1]
    if len(set(said.values())) != 1:
        raise Failed("; ".join(f"{place}: {version}" for place, version in said.items()))
    return f"{said['CHANGELOG.md']} in {', '.join(said)}"


def check_metadata(built: Built) -> str:
    """The fields are there, and name what is supported; the index would take both archives.

    Raises:
        Failed: a field is missing, or twine complains.
    """
    with ZipFile(built.wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        told = message_from_string(archive.read(name).decode())
    missing = [field for field in NEEDED if not told.get(field)]
    classifiers = told.get_all("Classifier", [])
    missing += [topic for topic in TOPICS if not any(c.startswith(topic) for c in classifiers)]
    if missing:
        raise Failed(f"the metadata lacks {', '.join(missing)}")
    oldest = supported(built.sources)[0]
    if told["Requires-Python"] != f">={text(oldest)}":
        raise Failed(f"classifiers begin with Python {text(oldest)}: {told['Requires-Python']}")
    archives = (built.wheel, built.sdist)
    run(built.tools, "-m", "twine", "check", "--strict", *archives, cwd=built.wheel.parent)
    return f"{len(told.keys())} fields, {len(classifiers)} classifiers; twine check --strict passed"


def check_readme(built: Built) -> str:
    """The README is rendered as an index does.

    Raises:
        Failed: nothing comes of it.
    """
    readme = built.unpacked / "README.md"
    size, relative = map(int, run(built.tools, "-c", RENDER, readme, cwd=built.unpacked).split())
    if not size:
        raise Failed("the README cannot be rendered")
    return f"{size:,} characters of HTML; {relative} links lead into the repository"
