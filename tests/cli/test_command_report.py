"""`lightkv report`: the page of a results file, and what is refused."""

import pytest

from lightkv.lab.grids.store import Store
from lightkv.lab.outcomes import Cell, Outcome


@pytest.fixture
def results(tmp_path):
    """A results file with one finished cell and one that has not run."""
    cells = [
        Cell(name, number, name, {"cell": name}, {"model": "demo", "pipeline": {}})
        for number, name in enumerate(("vanilla", "later"))
    ]
    outcomes = [Outcome(f"s{n}", f"c{n // 2}", "count", "?", "1", n % 2) for n in range(6)]
    path = tmp_path / "results.sqlite"
    with Store.create(path, {"name": "few"}) as store:
        store.add_cells(cells)
        store.finish(cells[0], outcomes)
    return path


def test_the_page_lies_beside_the_results(results, ok):
    told = ok("report", results)
    page = results.with_suffix(".html")
    assert "1 of 2 cells have finished" in told
    assert page.name in told
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "6 in 3 clusters" in text
    assert "1 not run yet" in text


def test_out_names_the_page(results, tmp_path, ok_json):
    page = tmp_path / "page.html"
    told = ok_json("report", results, "--out", page, "--json")
    assert told == {"page": str(page), "cells": 2, "finished": 1}
    assert (tmp_path / "page.html").stat().st_size > 1e6
    assert not results.with_suffix(".html").exists()


def test_what_is_refused(results, tmp_path, fails):
    before = results.read_bytes()
    assert "there is no such results file" in fails("report", tmp_path / "no.sqlite")
    assert "its folder does not exist" in fails("report", results, "--out", tmp_path / "no/a.html")
    assert "would overwrite the results" in fails("report", results, "--out", results)
    assert results.read_bytes() == before
    other = tmp_path / "text.sqlite"
    other.write_text("as long as the header of a database, but only text " * 9)
    assert "text.sqlite" in fails("report", other)
    results.write_bytes(before[: len(before) // 2])
    assert "damaged" in fails("report", results)
    assert not results.with_suffix(".html").exists()


def test_nothing_to_report(tmp_path, fails):
    path = tmp_path / "new.sqlite"
    with Store.create(path, {"name": "new"}) as store:
        store.add_cells([Cell("a", 0, "a", {}, {})])
    assert "no cell has finished" in fails("report", path)
