"""Values of a study that are set from outside of its file."""

import pytest
import yaml

from lightkv.lab.errors import GridError
from lightkv.lab.grids.schema import Grid
from lightkv.lab.overrides import overridden

GRID = {
    "task": "scenes",
    "retention": [0.5, 0.3],
    "axes": {"size": {"0.5": {}, True: {"scorer": "uniform"}}},
    "cells": [{"name": "a", "base": "fastv"}],
}


def changed(**places):
    given = {place.replace("__", "."): value for place, value in places.items()}
    return overridden(GRID, given, GridError, "grid, --set")


def test_places():
    assert changed(task__scenes=20)["task"] == {"name": "scenes", "scenes": 20}
    assert changed(retention=0.4)["retention"] == 0.4
    assert changed(seeds=[1, 2])["seeds"] == [1, 2]
    assert changed(cells__0__base="tome")["cells"][0]["base"] == "tome"
    assert changed(retention__1=0.2)["retention"] == [0.5, 0.2]
    found = overridden(
        GRID, {"axes.size.0.5.scorer": "noise", "axes.size.on": {}}, GridError, "grid"
    )
    assert found["axes"]["size"] == {"0.5": {"scorer": "noise"}, True: {}}
    assert GRID["task"] == "scenes"


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("axis.size", "Did you mean 'axes'"),
        ("cells.1.base", "no such place"),
        ("retention.0.x", "nothing below it"),
    ],
)
def test_places_that_are_not_there(place, what):
    with pytest.raises(GridError, match=what):
        overridden(GRID, {place: 1}, GridError, "grid, --set")


def test_a_grid_with_other_values(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(GRID))
    grid = Grid.read(path, {"task.scenes": 3, "axes.size.on.scorer": "noise"})
    assert grid.task["scenes"]["scenes"] == 3
    assert grid.axes["size"]["on"] == {"scorer": "noise"}
    with pytest.raises(GridError, match="Did you mean 'seeds'"):
        Grid.read(path, {"seds": 1})


@pytest.mark.parametrize(
    ("given", "place", "reached"),
    [
        ({"base": "lightkv"}, "base.matcher.metric", ("base", "matcher")),
        ({}, "base.matcher.metric", ("base", "matcher")),
        ({"base": "mine.yaml"}, "base.matcher.metric", ("base", "matcher")),
        (
            {"base": {"scorer": "size", "matcher": "bipartite"}},
            "base.matcher.metric",
            ("base", "matcher"),
        ),
        (
            {"cells": [{"name": "a", "base": "tome"}]},
            "cells.0.base.matcher.metric",
            ("cells", 0, "base", "matcher"),
        ),
    ],
)
def test_a_place_may_lead_into_what_a_name_stands_for(tmp_path, given, place, reached):
    (tmp_path / "mine.yaml").write_text("{name: mine, scorer: size, matcher: bipartite}")
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump({"retention": 0.5, **given}))
    found = Grid.read(path, {place: "keys"}).plain()
    for key in reached:
        found = found[key]
    assert found == {"name": "bipartite", "metric": "keys"}


def test_names_that_are_not_given_stand_there_by_default(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text("retention: 0.5")
    assert Grid.read(path, {"task.scenes": 3}).task["scenes"]["scenes"] == 3
    changed = Grid.read(path, {"base.schedule.windows": [2]})
    assert changed.base["schedule"] == {"retention": 0.55, "windows": [2]}
    assert {**changed.base, "schedule": 0} == {**Grid.read(path).base, "schedule": 0}
    with pytest.raises(GridError, match="Did you mean 'matcher'"):
        Grid.read(path, {"base.matchr.metric": "keys"})
