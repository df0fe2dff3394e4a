"""Runs what the documents show, so that they stay true.

In README.md and docs/*.md every Python block runs, in order, in one namespace for each document that
already holds `model` and `inputs` (a tiny random LLaVA). A line `expression  # → text` is checked. A
block after `<!-- not run: why -->` is left out, one after `<!-- file: PATH -->` must equal that file,
and a YAML block after `<!-- preset: NAME -->` must equal that preset. One after `<!-- grid: FILE -->`
must read as a grid of the lab, one after `<!-- study: FILE -->` as a search study whose options can all
be built. Other YAML blocks must build.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_llava import LAYERS, make_inputs, make_model

from lightkv import Pipeline, PipelineSpec
from lightkv.core.plugins import get_preset, registry
from lightkv.lab import Grid, SearchStudy
from lightkv.lab.designs.drawing import check_space
from lightkv.lab.grids.expand import expand

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<kind>\w+)\n(?P<code>.*?)^```$", re.M | re.S
)
EXPECTED = re.compile(r"#\s*→\s*(.+)$")


@pytest.fixture(autouse=True)
def _forget_registrations() -> Iterator[None]:
    """Documents register components; the next look-up loads the entry points afresh."""
    yield
    registry.cache_clear()


@dataclass(frozen=True)
class Snippet:
    """A fenced block: its language, its mark, its text and the line where it starts."""

    document: Path
    kind: str
    mark: str
    code: str
    line: int

    def marked(self, word: str) -> str | None:
        """What follows `word:` in the mark."""
        name, _, rest = self.mark.partition(":")
        return rest.strip() if name.strip() == word else None


def snippets(document: Path, kind: str) -> list[Snippet]:
    text = document.read_text(encoding="utf-8")
    return [
        Snippet(
            document,
            kind,
            found["mark"] or "",
            found["code"],
            text[: found.start()].count("\n") + 1,
        )
        for found in BLOCK.finditer(text)
        if found["kind"] == kind
    ]


def execute(snippet: Snippet, namespace: dict[str, Any]) -> None:
    """Run the statements one by one; compare expressions with what the text says they give."""
    lines = snippet.code.splitlines()
    for statement in ast.parse(snippet.code).body:
        assert statement.end_lineno is not None
        wanted = EXPECTED.search(lines[statement.end_lineno - 1])
        where = f"{snippet.document.name}:{snippet.line + statement.lineno}"
        if isinstance(statement, ast.Expr):
            code = compile(ast.Expression(statement.value), where, "eval")
            value = eval(code, namespace)
            assert wanted is None or str(value) == wanted[1].strip(), where
        else:
            exec(compile(ast.Module([statement], []), where, "exec"), namespace)


def runnable(document: Path) -> list[Snippet]:
    found = snippets(document, "python")
    return [s for s in found if s.marked("not run") is None and s.marked("file") is None]


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if runnable(d)], ids=lambda d: d.name)
def test_python_blocks_run(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for snippet in snippets(document, "yaml"):
        name = snippet.marked("save") or snippet.marked("grid")
        if name is not None:
            (tmp_path / name).write_text(snippet.code)
    namespace = {"__name__": "document", "model": make_model(), "inputs": make_inputs()}
    for snippet in runnable(document):
        execute(snippet, namespace)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_files_are_quoted_as_they_are(document: Path) -> None:
    quoted = [s for kind in ("python", "toml") for s in snippets(document, kind)]
    for snippet in quoted:
        path = snippet.marked("file")
        if path is not None:
            assert snippet.code == (ROOT / path).read_text(encoding="utf-8"), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_pipelines_build(document: Path) -> None:
    for snippet in snippets(document, "yaml"):
        if snippet.marked("grid") is not None:
            assert expand(Grid.parse(yaml.safe_load(snippet.code)))
            continue
        if snippet.marked("study") is not None:
            check_space(SearchStudy.parse(yaml.safe_load(snippet.code)))
            continue
        spec = PipelineSpec.from_yaml(snippet.code, f"{document.name}:{snippet.line}")
        name = snippet.marked("preset")
        if name is not None:
            assert spec == get_preset(name)
        depth = LAYERS if snippet.marked("save") is not None else 32
        assert Pipeline.build(spec, depth).stages
