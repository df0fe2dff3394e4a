"""`lightkv ablate`: runs, goes on, prints a table, and fails in one line."""

from __future__ import annotations

import sys

import pytest
import yaml

GRID = {
    "task": {"name": "scenes", "scenes": 2, "kinds": ["count"]},
    "retention": [0.5],
    "axes": {"guidance": {"prompt": {}, "uniform": {"scorer": "uniform"}}},
    "cells": [{"name": "dull", "base": "fastv", "retention": 0.001}],
    "baseline": {"guidance": "prompt"},
}


@pytest.fixture
def grid(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(GRID))
    return path


def test_runs_and_prints(bundled, grid, tmp_path, call, ok, ok_json):
    out = tmp_path / "r.sqlite"
    first = call("ablate", grid, "--out", out)
    assert first.exit_code == 0, first.stderr
    assert "3 of 3" in first.stderr  # without a terminal a line for each cell
    assert "vanilla" in first.stdout
    assert "dull retention=0.001 skipped: " in first.stdout
    row = next(line for line in first.stdout.splitlines() if line.strip().startswith("uniform"))
    assert "[" in row  # the interval of the difference
    again = call("ablate", grid, "--out", out)
    assert "of" not in again.stderr
    assert again.stdout == first.stdout == ok("ablate", "--table", "--out", out)
    cells = ok_json("ablate", "--table", "--out", out, "--json")["cells"]
    assert [cell["status"] for cell in cells] == ["done", "done", "done", "skipped"]
    compared = [cell["difference"] for cell in cells if cell["difference"] is not None]
    assert compared
    assert all(each["low"] <= each["difference"] <= each["high"] for each in compared)


def test_errors_are_one_line(bundled, grid, tmp_path, fails):
    out = tmp_path / "r.sqlite"
    assert "nothing to run" in fails("ablate", "--out", out)
    assert "no such results file" in fails("ablate", "--table", "--out", out)
    assert "cannot read the grid" in fails("ablate", tmp_path / "none.yaml", "--out", out)
    grid.write_text(yaml.safe_dump({**GRID, "axis": {}}))
    assert "Did you mean 'axes'" in fails("ablate", grid, "--out", out)
    grid.write_text(yaml.safe_dump({**GRID, "axes": {"guidance": {}}}))
    assert "the product is empty" in fails("ablate", grid, "--out", out)
    grid.write_text(yaml.safe_dump({"model": "/no/where", "task": GRID["task"]}))
    assert "no such directory" in fails("ablate", grid, "--out", out)
    out.write_text("mine")
    grid.write_text(yaml.safe_dump(GRID))
    assert "not a results file" in fails("ablate", grid, "--out", out)
    assert out.read_text() == "mine"


def test_what_the_table_needs_is_there_before_anything_runs(grid, tmp_path, fails, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    out = tmp_path / "r.sqlite"
    assert "lightkv[lab]" in fails("ablate", grid, "--out", out)
    assert not out.exists()


def test_names_are_not_markup(bundled, grid, tmp_path, call):
    axes = {"g[/b]": {"[red]x": {}, "y[/": {"scorer": "uniform"}}}
    grid.write_text(yaml.safe_dump({"task": GRID["task"], "axes": axes, "vanilla": False}))
    found = call("ablate", grid, "--out", tmp_path / "r.sqlite")
    assert found.exit_code == 0, found.stderr
    assert all(name in found.stdout for name in ("g[/b]", "[red]x", "y[/"))


def test_nothing_but_failures_is_a_failure(bundled, grid, tmp_path, call, monkeypatch):
    from lightkv.lab.grids import worker

    def broken(self, job):
        if job.spec["pipeline"] or all_fail:
            raise RuntimeError("out of memory")
        return plain(self, job)

    plain, all_fail = worker.Worker._run, True
    monkeypatch.setattr(worker.Worker, "_run", broken)
    found = call("ablate", grid, "--out", tmp_path / "r.sqlite")
    assert found.exit_code == 1
    assert "vanilla failed: RuntimeError: out of memory" in found.stdout
    assert call("ablate", "--table", "--out", tmp_path / "r.sqlite").exit_code == 0
    all_fail = False
    again = call("ablate", grid, "--out", tmp_path / "r.sqlite", "--retry-failed")
    assert again.exit_code == 0  # one is done
    assert "No cell could be compared" in " ".join(again.stdout.split())


def test_an_interrupt_says_how_to_go_on(bundled, grid, tmp_path, call, monkeypatch):
    from lightkv.lab.grids import worker

    def stop(self, job):
        raise KeyboardInterrupt

    monkeypatch.setattr(worker.Worker, "run", stop)
    result = call("ablate", grid, "--out", tmp_path / "r.sqlite")
    assert result.exit_code == 130
    assert "the same command goes on" in " ".join(result.stderr.split())
