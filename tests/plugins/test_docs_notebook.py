"""The notebook of docs/examples runs top to bottom, and what it shows is what it shows now."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lightkv_site import notebooks

from lightkv.core.plugins import registry

PATH = Path(__file__).parents[2] / "docs" / "examples" / "tour.ipynb"
TOUR = notebooks.read(PATH)
PUBLIC = {"lightkv", "lightkv.lab", "lightkv.plugin", "lightkv.demo"}


@pytest.fixture
def _forgotten() -> Iterator[None]:
    """The notebook registers a component; the next look-up loads the entry points afresh."""
    yield
    registry.cache_clear()


@pytest.mark.usefixtures("_forgotten")
def test_the_notebook_runs_and_shows_what_is_stored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compared = 0
    for cell, found in zip(notebooks.code(TOUR), notebooks.run(TOUR, {"SCENES": 3}), strict=True):
        stored = cell["outputs"]
        assert [shape(output) for output in found] == [shape(output) for output in stored]
        if notebooks.tagged(cell, "scenes"):  # figures of fewer scenes
            assert len(notebooks.text(found).split()) == len(notebooks.text(stored).split())
        else:
            assert notebooks.text(found) == notebooks.text(stored)
            compared += len(notebooks.text(stored))
    assert compared > 200
    assert list(tmp_path.iterdir()) == []


def shape(output: dict[str, Any]) -> tuple[str, list[str]]:
    return output["output_type"], sorted(output.get("data", ()))


def test_the_notebook_is_plain_and_small():
    assert (TOUR["nbformat"], TOUR["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in TOUR["cells"]}) == len(TOUR["cells"])
    assert PATH.stat().st_size < 300_000
    for cell in notebooks.code(TOUR):
        for node in ast.walk(ast.parse(notebooks.source(cell))):  # no magics
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lightkv"):
                assert node.module in PUBLIC or node.module.rpartition(".")[0] in PUBLIC
        assert not notebooks.pictures(cell["outputs"]) or len(cell["metadata"]["alt"]) > 40
    own = next(cell for cell in notebooks.code(TOUR) if "Matcher):" in notebooks.source(cell))
    [method] = [n for n in ast.walk(ast.parse(notebooks.source(own))) if hasattr(n, "args")][:1]
    assert len(method.body) == 5  # the words above it say so


def test_a_run_gives_values_and_keeps_what_is_shown():
    def cell(source, *tags):
        return {"cell_type": "code", "source": [source], "metadata": {"tags": list(tags)}}

    made = {"cells": [cell("n = 1", "parameters"), cell("print(n)\nobject()"), cell("n = 3")]}
    first, second, third = notebooks.run(made, {"n": 2})
    assert (first, third) == ([], [])
    assert notebooks.text(second) == "2\n<object object>\n"
    with pytest.raises(ZeroDivisionError):
        list(notebooks.run({"cells": [cell("1 / 0")]}))


def test_the_page_of_a_notebook_has_words_code_and_what_was_shown():
    text, pictures = notebooks.page(TOUR, "tour")
    assert text.startswith("# A tour of lightkv\n")
    assert list(pictures) == ["tour-1.png", "tour-2.png"]
    assert all(png.startswith(b"\x89PNG") for png in pictures.values())
    for cell in TOUR["cells"]:
        assert notebooks.source(cell) in text
        assert notebooks.text(cell.get("outputs", [])).rstrip() in text
    assert "(tour.ipynb)" in text
