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
    assert "left" in first.stderr  # and how long the rest will take
    assert "vanilla" in first.stdout
    assert "Measured on: " in " ".join(first.stdout.split())
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
    assert cells[0]["measured"]["first_token"] > 0
    assert cells[3]["measured"] is None
    assert all(each["low"] <= each["difference"] <= each["high"] for each in compared)


def test_other_values_and_more_cells(bundled, grid, tmp_path, call, ok_json, fails):
    out = tmp_path / "r.sqlite"
    changes = ("--set", "task.scenes=1", "--set", "cells=[]", "--set", "vanilla=false")
    first = ok_json("ablate", grid, "--out", out, *changes, "--json")["cells"]
    assert [cell["name"] for cell in first] == [
        f"guidance={label} retention=0.5" for label in ("prompt", "uniform")
    ]
    assert "another grid" in fails("ablate", grid, "--out", out)
    said = fails("ablate", grid, "--out", out, "--extend")
    assert "task, scenes: scenes was 1 and is 2" in said
    more = ("--set", "task.scenes=1", "--set", "cells=[]", "--extend")
    grown = ok_json("ablate", grid, "--out", out, *more, "--json")["cells"]
    assert [cell["seconds"] for cell in grown[1:]] == [cell["seconds"] for cell in first]
    assert grown[0]["name"] == "vanilla"
    assert "Did you mean 'axes'" in fails("ablate", grid, "--out", out, "--set", "axis={}")
    assert "KEY=VALUE" in fails("ablate", grid, "--out", out, "--set", "task.scenes")


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
