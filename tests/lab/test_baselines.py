"""Which cells follow where tasks differ, and what each is compared with."""

import pytest

from lightkv.lab.grids.cells import baselines, plan_cells
from lightkv.lab.grids.expand import expand
from lightkv.lab.grids.schema import Grid
from lightkv.lab.subject import Subject

SCENES = {"name": "scenes", "scenes": 1, "kinds": ["count"]}


@pytest.fixture(scope="module")
def subject():
    return Subject.load()


def test_the_uncompressed_model_runs_on_every_task_that_has_cells():
    relative = {"name": "agreement", "of": SCENES}
    data = {
        "task": SCENES,
        "cells": [
            {"name": "plain", "base": "fastv"},
            {"name": "other", "base": "fastv", "task": {**SCENES, "scenes": 3}},
            {"name": "same", "base": "random", "task": SCENES},
            {"name": "relative", "base": "fastv", "task": relative},
        ],
    }
    found = {c.name: c for c in expand(Grid.parse(data))}
    assert list(found) == [
        *("vanilla task=scenes", "vanilla task=scenes-2", "vanilla task=agreement"),
        *("plain task=scenes", "other task=scenes-2", "same task=scenes"),
        "relative task=agreement",
    ]
    assert found["vanilla task=scenes-2"].task["scenes"] == 3
    assert Grid.parse(data).factors()["task"] == ["scenes", "scenes-2", "agreement"]
    only = [c.name for c in expand(Grid.parse({**data, "vanilla": False}))]
    assert only == ["vanilla task=agreement", *list(found)[3:]]
    # What a relative task is relative to runs even where the grid leaves it out.
    skip = [{"where": {"cell": "vanilla"}, "reason": "dull"}]
    left = {c.name: c.skipped for c in expand(Grid.parse({**data, "skip": skip}))}
    assert [name for name in left if left[name]] == list(found)[:2]


def test_cells_are_not_crossed_with_what_they_set():
    task = {"short": SCENES, "long": {**SCENES, "scenes": 9}}
    cells = [{"name": "one", "base": "random", "task": SCENES, "seed": 7}]
    grid = Grid.parse({"task": task, "seeds": [1, 2], "cells": cells})
    assert [c.factors["task"] for c in expand(grid)] == ["short"] * 2
    assert grid.factors()["seed"] == ["1", "2", "7"]


def test_baselines_are_of_the_same_model_and_task(subject):
    other = {**SCENES, "seed": 3}  # numbered as the first task's samples, of other pictures
    cells = [{"name": "a", "base": "fastv"}, {"name": "b", "base": "fastv", "task": other}]
    grid = Grid.parse({"task": SCENES, "cells": cells, "vanilla": False})
    planned = plan_cells(grid, lambda model, dtype: subject)
    for wanted in ("a", "a task=scenes", {"cell": "a"}, {"cell": "a", "task": "scenes"}):
        assert baselines(Grid.parse({**grid.plain(), "baseline": wanted}), planned) == {}
    with_vanilla = Grid.parse({**grid.plain(), "vanilla": True})
    planned = plan_cells(with_vanilla, lambda model, dtype: subject)
    assert baselines(with_vanilla, planned) == {
        "a task=scenes": "vanilla task=scenes",
        "b task=scenes-2": "vanilla task=scenes-2",
    }


def test_a_baseline_that_another_cell_computes_is_that_cell(subject):
    data = {
        "task": SCENES,
        "retention": [0.5, 0.3],
        "axes": {"guidance": {"prompt": {}, "uniform": {"scorer": "uniform"}}},
        "cells": [{"name": "full", "base": "lightkv"}],
    }
    for wanted in ("full", {"cell": "full"}, {"guidance": "prompt"}):
        grid = Grid.parse({**data, "baseline": wanted})
        cells = plan_cells(grid, lambda model, dtype: subject)
        assert [c.status for c in cells if "full" in c.name] == ["skipped"] * 2
        against = baselines(grid, cells)
        assert against == {
            f"guidance=uniform retention={r}": f"guidance=prompt retention={r}" for r in (0.5, 0.3)
        }
    grid = Grid.parse({**data, "baseline": "full retention=0.3"})
    found = baselines(grid, cells)
    assert set(found.values()) == {"guidance=prompt retention=0.3"}
    assert len(found) == len(cells) - 2  # all but the baseline and its twin
