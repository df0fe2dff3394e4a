"""The grids and searches of the repository can be read, and those over methods name every preset."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightkv.lab.designs.schema import SearchStudy
from lightkv.lab.grids.checks import check_combinations
from lightkv.lab.grids.expand import expand
from lightkv.lab.grids.schema import Grid
from lightkv.lab.tasks import build_task
from lightkv.strategies import METHODS, _modules

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
GRIDS = sorted((BENCHMARKS / "grids").glob("*.yaml"))
SEARCHES = sorted((BENCHMARKS / "searches").glob("*.yaml"))


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_a_grid_can_be_read_and_says_how_it_is_run(path):
    grid = Grid.read(path)
    some = grid.model_copy(update={"retention": grid.retention and grid.retention[:1]})
    names = [one.name for one in expand(some)]
    assert len(set(names)) == len(names) > 1
    check_combinations(some)
    assert f"lightkv ablate benchmarks/grids/{path.name} --out " in path.read_text()
    # What is reported is of test scans; what chooses a default, of those that training saw.
    wanted = "train" if path.stem.startswith("ratios_") else None
    assert {spec.get("split") for spec in grid.tasks().values()} == {wanted}


@pytest.mark.parametrize("what", ["scenes", "pictures", "pairs", "clips"])
def test_grids_over_methods_name_every_preset(what):
    modules = _modules(METHODS)
    presets = [p.name for m in modules for p in (getattr(m, "PRESETS", None) or (m.PRESET,))]
    grid = Grid.read(BENCHMARKS / "grids" / f"presets_{what}.yaml")
    assert list(grid.axes["method"]) == presets
    for label, change in grid.axes["method"].items():
        assert change["base"]["name"] == label
    assert grid.retention == (0.55, 0.35, 0.2, 0.1)
    assert [task["name"] for task in grid.tasks().values()] == [what]


@pytest.mark.parametrize("path", SEARCHES, ids=lambda path: path.stem)
def test_a_search_can_be_read(path):
    study = SearchStudy.read(path)
    if path.stem.startswith("default_"):
        assert build_task(study.task).split == "train"
        assert build_task(study.held_out).split == "test"
