"""Events of mkdocs: pages that are made at build time, and links that lead out of docs/."""

from __future__ import annotations

import os.path
import posixpath
from pathlib import Path
from typing import Any

from lightkv_site import notebooks, presets, reference
from lightkv_site.links import resolved, rewritten, slug
from lightkv_site.sources import BROUGHT, NOTEBOOK, Places
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[2]
PLACES = Places(ROOT)
ASSETS = {"assets/lightkv.css": "site.css", "assets/iframe-worker.js": "iframe-worker.js"}
"""File of the site → file beside this one."""


def on_config(config: Any) -> Any:
    """Anchors as code hosts make them, and the presets in the navigation."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slug
    for entry in config.nav:
        pages = entry.get("Strategies") if isinstance(entry, dict) else None
        if pages is not None:
            pages += [{name: presets.PAGE.format(name)} for name in presets.names()]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made from code, and those of files outside of docs/."""
    made = presets.pages((ROOT / "docs" / "strategies.md").read_text(encoding="utf-8"))
    made |= reference.pages()
    for page, content in made.items():
        files.append(File.generated(config, page, content=content))
    for name, source in ASSETS.items():
        content = (Path(__file__).parent / source).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=content))
    own = [f"docs/{file.src_uri}" for file in files.documentation_pages() if not file.generated_by]
    for path in [file.src_uri for file in files if file.src_uri.endswith(NOTEBOOK)]:
        for name, shown in notebook_files(path).items():
            files.append(File.generated(config, name, content=shown))
    PLACES.collect([*own, *BROUGHT])
    for path, page in (BROUGHT | PLACES.wanted).items():
        level = InclusionLevel.UNDEFINED if path in BROUGHT else InclusionLevel.NOT_IN_NAV
        content = PLACES.content(path)
        files.append(File.generated(config, page, content=content, inclusion=level))
    return files


def notebook_files(path: str) -> dict[str, str | bytes]:
    """File of the site → its content: the page of a notebook of docs/, and the pictures on it. Its links
    lead to pages of docs/ only, and so need no other targets."""
    folder, name = os.path.split(path.removesuffix(NOTEBOOK))
    text, pictures = notebooks.page(notebooks.read(ROOT / "docs" / path), name)
    return {f"{folder}/{file}": shown for file, shown in {f"{name}.md": text, **pictures}.items()}


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Let links lead to pages of the site."""
    here = page.file.src_uri
    if here == "index.md":
        page.meta["hide"] = ["navigation", "toc"]
    origin = PLACES.origin(here)
    if not origin or not origin.endswith(".md"):
        return markdown

    def change(target: str) -> str:
        path, hash_, anchor = target.partition("#")
        if not path or ":" in path:
            return target
        there = PLACES.page(resolved(origin, path))
        return posixpath.relpath(there, os.path.dirname(here) or ".") + hash_ + anchor

    return rewritten(markdown, change)
