"""Values of plain data that are set from outside: of a study's file, and of a pipeline."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lightkv import Pipeline
from lightkv.core.errors import ConfigError
from lightkv.core.plugins import get_preset, registry
from lightkv.core.set_values import overridden
from lightkv.lab.errors import GridError
from lightkv.lab.grids.schema import Grid

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


def set_in(preset, /, **places):
    spec = get_preset(preset)
    values = {place.replace("__", "."): value for place, value in places.items()}
    return spec.updated(**spec.parts_with(values, "--set"))


def test_values_of_a_pipeline():
    found = set_in("lightkv", matcher__metric="keys", schedule__ratio=0.4, proportional=True)
    assert found.matcher == {"name": "bipartite", "metric": "keys"}
    assert found.schedule == get_preset("lightkv").schedule.model_copy(update={"ratio": 0.4})
    assert (found.proportional, found.name) == (True, "lightkv")
    assert set_in("lightkv", scorer=None, name="mine").scorer is None
    assert set_in("lightkv", schedule__windows__0=6).schedule.windows == (6, 2, 1)
    assert set_in("lightkv", retention=0.4) == set_in("lightkv", schedule__retention=0.4)
    assert set_in("lightkv", retention__image=0.4).schedule.retention == {"image": 0.4}
    plus = set_in("lightkv-plus", schedule__overrides__1__matcher__metric="keys")
    assert plus.schedule.overrides[1]["matcher"]["metric"] == "keys"
    stages = Pipeline.build("tome", 12).spec
    found = stages.updated(**stages.parts_with({"schedule.1.ratio": 0.3}))
    assert found.schedule[1].ratio == 0.3
    assert found.schedule[0] == stages.schedule[0]


@given(st.sampled_from(sorted(registry().presets)), st.data())
def test_a_part_that_is_set_to_what_it_is_changes_nothing(name, data):
    spec = get_preset(name)
    plain = spec.model_dump(mode="json")
    part = data.draw(st.sampled_from(sorted(plain)))
    assert spec.updated(**spec.parts_with({part: plain[part]})) == spec


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("mather.metric", "no such part. Did you mean 'matcher'"),
        ("base", "no such part"),
        ("schedule.ratoi", "Did you mean 'ratio'"),
        ("schedule.windows.7", "no such place"),
        ("schedule.stages.0", "nothing of that name"),
        ("proportional.x", "nothing below it"),
        ("name.x", "name"),
    ],
)
def test_values_that_a_pipeline_has_not(place, what):
    with pytest.raises(ConfigError, match=what):
        set_in("lightkv", **{place: 1})


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
    assert changed.base["schedule"] == {"retention": 0.55, "windows": [2], "ratio": 0.5}
    assert {**changed.base, "schedule": 0} == {**Grid.read(path).base, "schedule": 0}
    with pytest.raises(GridError, match="Did you mean 'matcher'"):
        Grid.read(path, {"base.matchr.metric": "keys"})
