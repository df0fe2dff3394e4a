"""Headings and links of Markdown, as the pages of this repository write them. Needs no mkdocs.

The anchor of a heading is what code hosts make of it, so that a link holds there and on the site.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lightkv_site import notebooks

FENCE = re.compile(r"^ {0,4}(`{3,}|~{3,})")
CODE = re.compile(r"(`+)(?:(?!`).)+?\1(?!`)")
LINK = re.compile(r"(?<=\]\()(?P<target>[^()\s]+)(?=\))|(?<=[\s\"]src=\")(?P<source>[^\"]+)(?=\")")
HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*\s*$")
NAMED = re.compile(r"<a (?:id|name)=\"([^\"]+)\"")
DEFINITION = re.compile(r"^ {0,3}\[[^\]]+\]:\s")


@dataclass(frozen=True)
class Link:
    """A target that a page names, and the line where it does."""

    target: str
    line: int

    @property
    def outside(self) -> bool:
        """Whether it leads out of the repository."""
        return bool(re.match(r"[a-z][a-z0-9+.-]*:", self.target))

    @property
    def path(self) -> str:
        return self.target.partition("#")[0]

    @property
    def anchor(self) -> str:
        return self.target.partition("#")[2]


def markdown(path: Path) -> str:
    """The Markdown of a page: a file's, or that between the code of a notebook."""
    if path.suffix == ".ipynb":
        return notebooks.prose(notebooks.read(path))
    return path.read_text(encoding="utf-8")


def slug(text: str, separator: str = "-") -> str:
    """The anchor of a heading: lower case, no punctuation, a hyphen for each space."""
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", separator)


def prose(markdown: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line outside of fenced code, and of comments of several lines."""
    fence, comment = "", False
    for number, line in enumerate(markdown.splitlines(), start=1):
        found = FENCE.match(line)
        if fence:
            closes = found and found[1].startswith(fence) and line.strip() == found[1]
            fence = "" if closes else fence
        elif comment or line.rfind("<!--") > line.rfind("-->"):
            comment = "-->" not in line
        elif found:
            fence = found[1]
        else:
            yield number, line


def anchors(markdown: str) -> list[str]:
    """The anchors of a page, in order; a repeated heading counts up."""
    found: list[str] = []
    seen: dict[str, int] = {}
    for _, line in prose(markdown):
        found += NAMED.findall(line)
        heading = HEADING.match(line)
        if heading:
            name = slug(plain(heading[2]))
            count = seen.get(name, 0)
            seen[name] = count + 1
            found.append(f"{name}-{count}" if count else name)
    return found


def plain(text: str) -> str:
    """A heading without its marks: what a reader sees."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"[`*]", "", text)


def links(markdown: str) -> list[Link]:
    """Every link and picture of a page, outside of code."""
    return [
        Link(found[0], number)
        for number, line in prose(markdown)
        for found in LINK.finditer(_without_code(line))
    ]


def rewritten(markdown: str, change: Callable[[str], str]) -> str:
    """The page with other targets; code stays as it is."""
    lines = markdown.splitlines()
    for number, line in prose(markdown):
        bare = _without_code(line)
        for found in reversed(list(LINK.finditer(bare))):
            line = line[: found.start()] + change(found[0]) + line[found.end() :]
        lines[number - 1] = line
    return "\n".join(lines) + "\n"


def resolved(page: str, path: str) -> str:
    """A relative path of a page, from the root of the repository: "" is the root itself."""
    if not path:
        return page
    found = os.path.normpath(os.path.join(os.path.dirname(page), path))
    return "" if found == "." else found


def dead(root: Path, pages: list[str]) -> list[str]:
    """What the links of these pages miss, as `page:line: target`; and links to nowhere by form."""
    texts: dict[str, list[str]] = {}
    found = []
    for page in pages:
        text = markdown(root / page)
        undefined = [n for n, line in prose(text) if DEFINITION.match(line)]
        found += [f"{page}:{n}: write the target at the link" for n in undefined]
        for link in links(text):
            if link.outside:
                continue
            target = resolved(page, link.path)
            where = root / target
            good = not target.startswith("..") and where.exists()
            if good and link.anchor:
                if target not in texts:
                    is_page = where.suffix == ".md"
                    texts[target] = anchors(where.read_text("utf-8")) if is_page else []
                good = link.anchor in texts[target]
            if not good:
                found.append(f"{page}:{link.line}: {link.target}")
    return found


def _without_code(line: str) -> str:
    """The line with code blanked out, at the same places."""
    return CODE.sub(lambda found: " " * len(found[0]), line)
