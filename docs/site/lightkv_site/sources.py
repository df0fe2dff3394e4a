"""Files of the repository that pages link to, as pages: the site leads nowhere else for them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path

from lightkv_site.links import links, resolved

BROUGHT = {
    "README.md": "overview.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages from outside of docs/ → where they are on the site."""
LANGUAGES = {
    ".py": "python",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".toml": "toml",
    ".json": "json",
    ".cff": "yaml",
    ".css": "css",
    ".js": "js",
}
"""Suffix of a file that is shown as text → its language."""
NOTEBOOK = ".ipynb"
UNSEARCHED = "---\nsearch:\n  exclude: true\n---\n\n"


class Places:
    """Where on the site a path of the repository is, and the pages that have to be made for it."""

    def __init__(self, root: Path, docs: str = "docs") -> None:
        self.root = root
        self.docs = f"{docs}/"
        self.wanted: dict[str, str] = {}
        """Path in the repository → page of the site, for what is neither in docs/ nor brought."""

    def page(self, path: str) -> str:
        """The file of the site for a path of the repository, which is made if need be.

        Raises:
            FileNotFoundError: there is no such path.
        """
        if path == "":
            return BROUGHT["README.md"]
        if path in BROUGHT:
            return BROUGHT[path]
        where = self.root / path
        if not where.exists():
            raise FileNotFoundError(path)
        if path.startswith(self.docs) and where.suffix == NOTEBOOK:
            return path.removeprefix(self.docs).removesuffix(NOTEBOOK) + ".md"
        if path.startswith(self.docs) and where.is_file() and where.suffix not in LANGUAGES:
            return path.removeprefix(self.docs)
        self.wanted[path] = f"source/{path}/index.md" if where.is_dir() else f"source/{path}.md"
        return self.wanted[path]

    def origin(self, page: str) -> str:
        """The path in the repository of a page of the site, "" if it was made by the build."""
        back = {new: old for old, new in (BROUGHT | self.wanted).items()}
        if page in back:
            return back[page]
        return self.docs + page if (self.root / self.docs / page).is_file() else ""

    def collect(self, pages: Iterable[str]) -> None:
        """Ask for all that these pages of the repository link to, and for what those ask in turn."""
        todo, done = list(pages), set()
        while todo:
            page = todo.pop()
            done.add(page)
            for link in links((self.root / page).read_text(encoding="utf-8")):
                if not link.outside:
                    self.page(resolved(page, link.path))
            todo += [p for p in self.wanted if p.endswith(".md") and p not in done]

    def content(self, path: str) -> str:
        """The page that shows a file or a folder."""
        where = self.root / path
        if where.is_dir():
            return self._folder(path, where)
        text = where.read_text(encoding="utf-8")
        if where.suffix == ".md":
            return text
        fence = "`" * (max((len(run) for run in re.findall(r"`+", text)), default=2) + 1)
        fence = fence if len(fence) > 3 else "```"
        language = LANGUAGES.get(where.suffix, "text")
        head = f"{UNSEARCHED}# {where.name}\n\n`{path}`, as it is in the repository.\n\n"
        return f'{head}{fence}{{.{language} linenums="1"}}\n{text.rstrip()}\n{fence}\n'

    def _folder(self, path: str, where: Path) -> str:
        """A table of the files of a folder; those that have a page of their own are links."""
        rows = []
        for child in _shown(where):
            name = f"`{child.name}`"
            if f"{path}/{child.name}" in self.wanted:
                name = f"[{name}]({child.name}.md)"
            rows.append(f"| {name} | {_about(child)} |")
        head = f"{UNSEARCHED}# {where.name}/\n\nThe files of `{path}/` in the repository.\n\n"
        return head + "\n".join(["| file | what it holds |", "|---|---|", *rows]) + "\n"


def _shown(folder: Path) -> list[Path]:
    shown = [p for p in folder.iterdir() if p.suffix in LANGUAGES and p.is_file()]
    return sorted(shown)


def _about(path: Path) -> str:
    """The first sentence of a module's docstring."""
    if path.suffix != ".py":
        return ""
    words = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return words.partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")
