"""Grids: what they say, what they may not say, and the cells that follow."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lightkv.core.errors import ConfigError, UnknownNameError
from lightkv.core.pipeline.pipeline import PipelineSpec
from lightkv.lab.errors import GridError
from lightkv.lab.grids.cells import baselines, computation, plan_cells, repeats, seeded
from lightkv.lab.grids.changes import base_data, changed
from lightkv.lab.grids.checks import check_combinations
from lightkv.lab.grids.expand import expand
from lightkv.lab.grids.run import ablate
from lightkv.lab.grids.schema import Grid
from lightkv.lab.grids.store import Store
from lightkv.lab.grids.unreached import remarks, unreached
from lightkv.lab.outcomes import Cell
from lightkv.lab.subject import Subject

SCENES = {"name": "scenes", "scenes": 1, "kinds": ["count"]}
TEXT = """
name: parts
task: {name: scenes, scenes: 1, kinds: [count]}
retention: [0.55, 0.35]
axes:
  windows: {on: {}, off: {partitioner: whole}}
  guidance: {prompt: {}, uniform: {scorer: uniform}}
cells:
  - {name: fastv, base: fastv}
  - {name: rand, base: random, retention: 0.5, seed: 7}
skip:
  - {where: {windows: off, guidance: [uniform]}, reason: too dull}
baseline: {windows: on, guidance: prompt}
"""


@pytest.fixture(scope="module")
def subject():
    return Subject.load()


def plan(grid, subject):
    return plan_cells(Grid.parse(grid), lambda model, dtype: subject)


def test_the_product_in_order():
    grid = Grid.parse(yaml.safe_load(TEXT))
    assert Grid.parse({"seeds": [-(2**63), 2**64 - 1]}).seeds == (-(2**63), 2**64 - 1)
    names = [c.name for c in expand(grid)]
    assert names == [
        "vanilla",
        "windows=on guidance=prompt retention=0.55",
        "windows=on guidance=uniform retention=0.55",
        "windows=off guidance=prompt retention=0.55",
        "windows=off guidance=uniform retention=0.55",
        "windows=on guidance=prompt retention=0.35",
        "windows=on guidance=uniform retention=0.35",
        "windows=off guidance=prompt retention=0.35",
        "windows=off guidance=uniform retention=0.35",
        "fastv retention=0.55",
        "fastv retention=0.35",
        "rand retention=0.5",
    ]
    skipped = [c.name for c in expand(grid) if c.skipped == "too dull"]
    assert skipped == [names[4], names[8]]
    assert grid.factors()["windows"] == ["on", "off"]  # YAML's truth values are words again
    assert expand(grid)[-1].seed == 7


def test_a_grid_is_plain_data():
    grid = Grid.parse(yaml.safe_load(TEXT))
    plain = json.loads(json.dumps(grid.plain()))
    assert Grid.parse(plain) == grid
    assert grid.base["scorer"] == "prompt-attention"  # written out, not a name


def test_cells_hold_everything(subject):
    cells = plan(yaml.safe_load(TEXT), subject)
    by_name = {cell.name: cell for cell in cells}
    assert [cell.position for cell in cells] == list(range(12))
    assert len({cell.id for cell in cells}) == 12
    assert by_name["vanilla"].spec["pipeline"] == {}
    one = by_name["windows=off guidance=prompt retention=0.35"]
    assert one.factors == {
        "windows": "off",
        "guidance": "prompt",
        "retention": "0.35",
        "model": "demo",
        "task": "scenes",
        "seed": "0",
    }
    stages = one.spec["pipeline"]["schedule"]
    assert all(set(stage) <= {"after_layer", "ratio", "windows"} for stage in stages)
    assert PipelineSpec.parse(one.spec["pipeline"]).partitioner == "whole"
    assert by_name["rand retention=0.5"].spec["pipeline"]["scorer"] == {"name": "noise", "seed": 7}
    assert {c.status for c in cells} == {"pending", "skipped"}
    assert [c.id for c in plan(yaml.safe_load(TEXT), subject)] == [c.id for c in cells]


def test_baselines_hold_the_other_factors(subject):
    grid = Grid.parse(yaml.safe_load(TEXT))
    cells = plan_cells(grid, lambda model, dtype: subject)
    against = baselines(grid, cells)
    assert against["windows=off guidance=uniform retention=0.35"] == (
        "windows=on guidance=prompt retention=0.35"
    )
    assert against["fastv retention=0.55"] == "windows=on guidance=prompt retention=0.55"
    assert "windows=on guidance=prompt retention=0.35" not in against
    assert "vanilla" not in against  # there is one for each retention
    plain = Grid.parse({**yaml.safe_load(TEXT), "baseline": None})
    assert set(baselines(plain, cells).values()) == {"vanilla"}
    named = Grid.parse({**yaml.safe_load(TEXT), "baseline": "fastv"})
    assert baselines(named, cells)["windows=off guidance=prompt retention=0.35"] == (
        "fastv retention=0.35"
    )
    exact = Grid.parse({**yaml.safe_load(TEXT), "baseline": "fastv retention=0.35"})
    assert set(baselines(exact, cells).values()) == {"fastv retention=0.35"}
    wrong = Grid.parse({**yaml.safe_load(TEXT), "baseline": "fastw"})
    with pytest.raises(GridError, match="Did you mean 'fastv'"):
        baselines(wrong, cells)


def test_impossible_cells_are_recorded(subject):
    cells = plan(
        {
            "task": SCENES,
            "retention": [0.55, 0.001],
            "axes": {
                "at": {
                    "recipe": {},
                    "early": {"schedule": [{"after_layer": 0, "ratio": 0.5}]},
                    "windows": {
                        "schedule": {"windows": [64]},
                        "partitioner": {"name": "windows", "clamp": False},
                    },
                }
            },
        },
        subject,
    )
    status = {cell.name: (cell.status, cell.reason) for cell in cells}
    assert status["vanilla"][0] == status["at=recipe retention=0.55"][0] == "pending"
    assert "already fix the retention" in status["at=early retention=0.55"][1]
    assert "64" in status["at=windows retention=0.55"][1]  # found on the probe, before anything ran
    assert status["at=recipe retention=0.001"][0] == "skipped"
    assert "retention" in status["at=recipe retention=0.001"][1]


def test_all_impossible_is_an_error(subject):
    with pytest.raises(GridError, match="no cell of the grid can run"):
        plan({"task": SCENES, "retention": 0.001, "vanilla": False}, subject)


def test_seeds_matter_only_to_chance(subject, tmp_path):
    cells = plan(
        {
            "task": SCENES,
            "retention": 0.5,
            "seeds": [1, 2],
            "cells": [{"name": "random", "base": "random"}, {"name": "fastv", "base": "fastv"}],
        },
        subject,
    )
    found = {cell.name: cell.status for cell in cells}
    assert found["random retention=0.5 seed=2"] == "pending"
    assert found["fastv retention=0.5 seed=2"] == "skipped"
    last = next(c for c in cells if c.name == "fastv retention=0.5 seed=2")
    assert last.reason == "computes the same as 'fastv retention=0.5 seed=1'"
    # Also of cells that were written to a file and read back.
    with Store.create(tmp_path / "r.sqlite", {}) as store:
        store.add_cells(cells)
        back = store.cells()
    assert repeats(back)[last.id].name == "fastv retention=0.5 seed=1"
    assert set(repeats(back)) == {cell.id for cell in cells if cell.status == "skipped"}


def test_large_seeds_are_seeds(subject):
    cells = [{"name": "random", "base": "random"}, {"name": "rand", "base": "rand"}]
    found = plan({"task": SCENES, "seeds": [2**63 - 1, -5], "cells": cells}, subject)
    assert {cell.status for cell in found} == {"pending"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"retentions": [0.5]}, "no such key.*Did you mean 'retention'"),
        ({"axes": {"windows": {}}}, "product is empty"),
        ({"seeds": []}, "product is empty"),
        ({"retention": []}, "product is empty"),
        ({"model": []}, "product is empty"),
        ({"axes": {"g": {"a": {"scorrer": "uniform"}}}}, "Did you mean 'scorer'"),
        ({"axes": {"g": {"a": "uniform"}}}, "what changes is a mapping"),
        ({"axes": ["scorer"]}, "axes are a mapping"),
        ({"axes": {"model": {"a": {}}}}, "taken by a key of the grid"),
        (
            {"axes": {"r": {"a": {"retention": 0.3}}}, "retention": 0.5},
            "gives the retention already",
        ),
        ({"skip": [{"where": {"window": "on"}}]}, "no such factor"),
        ({"skip": [{"where": {"cell": "vanila"}}]}, "Did you mean 'vanilla'"),
        ({"skip": [{"were": {}}]}, "skip, 0, "),
        ({"baseline": {"cell": "x"}}, "no such label"),
        ({"cells": [{"base": "fastv"}]}, "has a name"),
        ({"cells": [{"name": "x", "basis": "fastv"}]}, "Did you mean 'base'"),
        ({"task": ["scenes", "scenes"]}, "two entries have the same name"),
        ({"task": "scene"}, "Did you mean 'scenes'"),
        ({"base": "lightkvv"}, "lightkv"),
        ({"equalise": "sometimes"}, "achieved"),
        ({"axes": {"g": {True: {}, "on": {"scorer": "uniform"}}}}, "two labels are the same"),
        ({"task": {1: SCENES, "1": "scenes"}}, "two labels are the same"),
        ({"cells": 5}, "cells are a list"),
        ({"cells": [5]}, "what changes is a mapping"),
        ({"cells": [{"name": "x", "seed": "abc"}]}, r"cells\[0\], seed = 'abc': a seed is a whole"),
        ({"cells": [{"name": "x", "seed": 2**64}]}, "at most 64 bits"),
        ({"seeds": [0, 2**64]}, r"seeds = .*from -2\*\*63 to 2\*\*64 - 1"),
        ({"cells": [{"name": "x", "scorer": 5}]}, "scorer = 5: a component is a name"),
        ({"axes": {"g": {"a": {"retention": "much"}}}}, "retention is a share of the"),
        ({"axes": {"g": {"a": {"retention": float("nan")}}}}, "a number above 0 and at most 1"),
        (
            {"cells": [{"name": "x", "retention": -0.5}]},
            r"cells\[0\], retention = -0.5: retention is a share",
        ),
        ({"retention": 55}, "retention = 55.0?: retention is a share .*0.55 for 55 %"),
        ({"retention": [0.5, 0]}, "a number above 0 and at most 1"),
        ({"retention": [float("nan")]}, "retention"),
        ({"task": {"name": "scenes", "scenes": 0}}, "scenes = 0"),
        ({"axes": {"g": {"a": {"model": 5}}}}, "a model is a text"),
        ({"base": {"scorer": 5}}, "scorer"),
        ({"cells": [{"name": "x", "schedule": {True: 1}}]}, "a parameter is a text.*quotes"),
        ({"name": "\ud800"}, "half a surrogate pair"),
        ({"vanilla": False, "cells": [], "axes": {}, "retention": "much"}, "retention"),
    ],
)
def test_wrong_grids(change, message):
    with pytest.raises(ConfigError, match=message):
        Grid.parse(change)


def test_wrong_files(tmp_path):
    path = tmp_path / "grid.yaml"
    with pytest.raises(GridError, match="cannot read the grid"):
        Grid.read(path)
    path.write_text("axes: [")
    with pytest.raises(GridError, match="cannot read the grid"):
        Grid.read(path)
    path.write_text("- 1")
    with pytest.raises(GridError, match="a grid is a mapping"):
        Grid.read(path)
    path.write_text("base: !!python/object/apply:os.getcwd []")
    with pytest.raises(GridError, match="cannot read the grid"):
        Grid.read(path)


def test_a_key_twice_is_an_error(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text("axes:\n  g:\n    a: {}\n    a: {scorer: uniform}\n")
    with pytest.raises(GridError, match=r"the key 'a' is there twice.*line 4"):
        Grid.read(path)
    path.write_text("axes:\n  g:\n    on: {}\n    yes: {scorer: uniform}\n")  # both are true
    with pytest.raises(GridError, match="the key 'yes' is there twice"):
        Grid.read(path)
    path.write_text("name: x\nseeds: [" + "[" * 100_000)
    with pytest.raises(GridError, match="cannot read the grid"):
        Grid.read(path)


def test_merged_keys_may_be_gone_over(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(
        """
cells:
  - &one {name: one, base: fastv, retention: 0.5}
  - &two {<<: *one, name: two, retention: 0.3}
  - {<<: [*two, *one], name: three}
"""
    )
    grid = Grid.read(path)
    assert [(c["name"], c["retention"]) for c in grid.cells] == [
        *(("one", 0.5), ("two", 0.3), ("three", 0.3))
    ]
    assert Grid.parse(yaml.safe_load(path.read_text())) == grid


def test_pipeline_files_are_relative_to_the_grid(tmp_path):
    (tmp_path / "mine.yaml").write_text("{name: mine, scorer: size, matcher: top-k}")
    (tmp_path / "grid.yaml").write_text("{base: mine.yaml, retention: 0.5}")
    grid = Grid.read(tmp_path / "grid.yaml")
    assert grid.base["name"] == "mine"
    assert Grid.parse(grid.plain()) == grid


def test_data_are_relative_to_the_grid(tmp_path):
    inner = {"name": "files", "path": "data.jsonl"}
    text = yaml.safe_dump(
        {
            "task": inner,
            "cells": [{"name": "a", "base": "fastv", "task": {"name": "perplexity", "of": inner}}],
        }
    )
    (tmp_path / "grid.yaml").write_text(text)
    grid = Grid.read(tmp_path / "grid.yaml")
    assert grid.task["files"]["path"] == str(tmp_path / "data.jsonl")
    assert grid.cells[0]["task"]["of"]["path"] == str(tmp_path / "data.jsonl")


def test_slips_of_the_pen_are_not_findings(subject):
    grid = {"task": SCENES, "retention": 0.5, "axes": {"s": {"x": {"scorer": "unifrom"}}}}
    with pytest.raises(UnknownNameError, match="uniform"):
        plan(grid, subject)
    with pytest.raises(GridError, match="two cells have the same name"):
        plan({"task": SCENES, "cells": [{"name": "vanilla", "base": "fastv"}]}, subject)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scorer": "unifrom"}, "Did you mean 'uniform'"),
        ({"matcher": {"metrik": "keys"}}, "a=x retention=0.5: matcher 'bipartite', metrik"),
        ({"schedule": {"ratio": 55}}, "ratio = 55"),
        ({"schedule": {"ratio": -0.5}}, "ratio = -0.5"),
        ({"schedule": {"ratio": float("nan")}}, "ratio"),
        ({"schedule": {"ratio": "0.5"}}, "ratio = '0.5'"),
        ({"schedule": {"retention": 55}}, "retention = 55"),
        ({"schedule": {"windows": [0]}}, "windows = 0"),
        ({"schedule": {"after_layer": -1}}, "after_layer = -1"),
        ({"schedule": {"depths": [25, 50]}}, "depths"),
        ({"schedule": {"overrides": [{"macher": "top-k"}]}}, "Did you mean 'matcher'"),
        ({"schedule": [{"after_layer": 2, "ratio": 1.5}]}, "ratio = 1.5"),
        ({"schedule": [{"after_layer": 2, "ratio": 0.5, "overrides": {"scorer": "x"}}]}, "scorer"),
    ],
)
def test_what_is_right_for_no_method_leaves_no_file(tmp_path, change, message):
    out = tmp_path / "r.sqlite"
    grid = {"task": SCENES, "retention": 0.5, "axes": {"a": {"x": change}}}
    with pytest.raises(ConfigError, match=message):
        ablate(grid, out=out)
    assert list(tmp_path.iterdir()) == []
    # Unless the grid leaves it out.
    check_combinations(Grid.parse({**grid, "skip": [{"where": {"a": "x"}}]}))


def test_a_grid_of_which_only_the_uncompressed_model_runs_leaves_no_file(tmp_path):
    out = tmp_path / "r.sqlite"
    with pytest.raises(GridError, match="no compressed cell of the grid can run; the first: "):
        ablate({"task": SCENES, "retention": 0.001}, out=out)
    assert list(tmp_path.iterdir()) == []


def test_relative_tasks_run_the_uncompressed_model():
    grid = Grid.parse({"task": {"name": "agreement", "of": SCENES}, "vanilla": False})
    assert [c.name for c in expand(grid)] == ["vanilla", "grid"]


def test_changes_of_a_part_keep_the_rest():
    base = base_data("lightkv")
    keys = changed(base, {"matcher": {"metric": "keys"}})
    assert keys["matcher"] == {"name": "bipartite", "metric": "keys"}
    assert changed(keys, {"matcher": {"name": "top-k"}})["matcher"] == {"name": "top-k"}
    assert changed(keys, {"matcher": {"metric": "hidden"}})["matcher"]["name"] == "bipartite"
    narrow = changed(base, {"schedule": {"windows": [2, 1]}})
    assert narrow["schedule"]["windows"] == [2, 1]
    assert narrow["schedule"]["retention"] == base["schedule"]["retention"]
    assert changed(base, {"schedule": [{"after_layer": 2, "ratio": 0.5}]})["schedule"] == [
        {"after_layer": 2, "ratio": 0.5}
    ]
    assert base == base_data("lightkv")  # nothing was changed in place


LATER = {"partitioner": "whole", "matcher": {"name": "guided", "split": "importance"}}
LISTED = [
    {"after_layer": 2, "ratio": 0.5},
    {"after_layer": 4, "ratio": 0.5, "overrides": {"matcher": "guided", "scorer": "noise"}},
]


def test_parameters_reach_the_same_component_in_overrides():
    base = base_data("lightkv-plus")
    assert base["schedule"]["overrides"] == [{}, LATER]
    much = changed(base, {"matcher": {"protect": 0.2}})
    assert much["matcher"] == {"name": "guided", "protect": 0.2}
    reached = {**LATER, "matcher": {**LATER["matcher"], "protect": 0.2}}
    assert much["schedule"]["overrides"] == [{}, reached]
    assert base == base_data("lightkv-plus")  # nothing was changed in place
    # The windows' budget is no parameter of the partitioner of the later stages.
    assert changed(base, {"partitioner": {"budget": "window"}})["schedule"] == base["schedule"]
    # A component by its name replaces the pipeline's only.
    assert changed(base, {"matcher": "bipartite"})["schedule"] == base["schedule"]
    listed = changed({**base, "schedule": LISTED}, {"matcher": {"protect": 0.2}})["schedule"]
    assert listed[0] == LISTED[0]
    assert listed[1]["overrides"] == {
        "matcher": {"name": "guided", "protect": 0.2},
        "scorer": "noise",
    }
    both = changed(
        base, {"schedule": {"overrides": [{"matcher": "guided"}]}, "matcher": {"protect": 0.2}}
    )
    assert both["schedule"]["overrides"] == [{"matcher": {"name": "guided", "protect": 0.2}}]


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        ({"matcher": {"protect": 0.2}}, ""),
        ({"partitioner": "whole"}, ""),
        ({"scorer": "noise"}, ""),
        ({"matcher": "bipartite", "schedule": {"overrides": []}}, ""),
        ({"matcher": "bipartite"}, "stage 2 and later keep their own matcher (guided)"),
        (
            {"matcher": {"name": "guided", "protect": 0.2}},
            "stage 2 and later keep their own matcher (guided)",
        ),
        (
            {"partitioner": {"budget": "window"}},
            "stage 2 and later keep their own partitioner (whole)",
        ),
    ],
)
def test_stages_that_a_label_does_not_reach_are_named(change, remark):
    pipeline = changed(base_data("lightkv-plus"), change)
    assert unreached(pipeline, [change]).removeprefix("the overrides of ") == remark
    # What a later base replaces changes nothing.
    assert unreached(base_data("lightkv-plus"), [change, {"base": "lightkv-plus"}]) == ""


def test_cells_carry_what_a_label_does_not_reach(subject):
    grid = Grid.parse(
        {
            "task": SCENES,
            "base": "lightkv-plus",
            "retention": 0.5,
            "axes": {"matcher": {"own": {}, "plain": {"matcher": "bipartite"}}},
        }
    )
    cells = plan_cells(grid, lambda model, dtype: subject)
    plain = next(cell for cell in cells if "plain" in cell.name)
    own = [n for n, s in enumerate(plain.spec["pipeline"]["schedule"], 1) if "overrides" in s]
    assert remarks(grid, cells) == {
        plain.id: f"the overrides of stages {', '.join(map(str, own))} keep their own matcher (guided)"
    }


def cell_of(pipeline):
    return Cell("x", 0, "x", {}, {"model": "demo", "task": SCENES, "pipeline": pipeline})


@pytest.mark.parametrize(
    "other",
    [
        {"name": "another", "matcher": "guided"},
        {"matcher": {"name": "guided", "split": "alternate", "metric": "hidden"}},
        {"positions": {"name": "keep"}, "proportional": False, "aggregator": "drop"},
        {
            "schedule": [
                {**LISTED[0], "site": "layers", "overrides": {}},
                {**LISTED[1], "overrides": {"scorer": "size"}},
            ]
        },
        {"schedule": [LISTED[0], {**LISTED[1], "overrides": {"matcher": {"name": "guided"}}}]},
        {"schedule": [LISTED[0], {k: v for k, v in LISTED[1].items() if k != "overrides"}]},
    ],
)
def test_what_is_written_out_computes_the_same(other):
    schedule = [LISTED[0], {**LISTED[1], "overrides": {"matcher": "guided"}}]
    base = {"scorer": "size", "matcher": {"name": "guided"}, "schedule": schedule}
    assert computation(cell_of({**base, **other})) == computation(cell_of(base))
    assert computation(cell_of({**base, "proportional": True})) != computation(cell_of(base))
    assert computation(cell_of({**base, "matcher": "top-k"})) != computation(cell_of(base))


def test_what_cannot_be_built_computes_what_it_says():
    gone = {"scorer": "of-a-plugin", "matcher": "top-k", "schedule": LISTED}
    assert computation(cell_of(gone)) == computation(cell_of({**gone, "name": "y"}))
    assert computation(cell_of(gone)) != computation(cell_of({**gone, "scorer": "another"}))


def test_a_default_that_is_written_out_is_a_repeat(subject):
    labels = {"none": {}, "hidden": {"matcher": {"metric": "hidden"}}}
    cells = plan({"task": SCENES, "retention": 0.5, "axes": {"metric": labels}}, subject)
    assert [cell.status for cell in cells] == ["pending", "pending", "skipped"]
    assert cells[2].reason == "computes the same as 'metric=none retention=0.5'"


def test_seeds_reach_components_that_take_one():
    again = seeded({"matcher": "guided", "schedule": LISTED}, 3)["schedule"]
    assert again[1]["overrides"] == {"matcher": "guided", "scorer": {"name": "noise", "seed": 3}}
    assert again[0] == LISTED[0]
    recipe = {"overrides": [{}, {"scorer": "noise"}]}
    found = seeded({"matcher": "guided", "schedule": recipe}, 3)["schedule"]["overrides"]
    assert found == [{}, {"scorer": {"name": "noise", "seed": 3}}]
    data = seeded({"scorer": "noise", "matcher": "random-bipartite", "aggregator": "drop"}, 3)
    assert data["scorer"] == {"name": "noise", "seed": 3}
    assert data["matcher"] == {"name": "random-bipartite", "seed": 3}
    assert data["aggregator"] == "drop"
    assert seeded({"scorer": {"name": "noise", "seed": 1}, "matcher": "top-k"}, 3)["scorer"] == {
        "name": "noise",
        "seed": 1,
    }


@pytest.mark.parametrize("preset", ["lightkv", "fastv", "tome", "pyramiddrop", "rand", "sparsevlm"])
def test_pipelines_written_out_come_back(preset):
    from lightkv.core.pipeline.pipeline import resolve_spec

    assert PipelineSpec.parse(resolve_spec(preset).to_data()) == resolve_spec(preset)


@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.integers(1, 3),
    st.integers(1, 2),
    st.booleans(),
)
def test_the_product_is_complete(sizes, retentions, seeds, vanilla):
    grid = Grid.parse(
        {
            "task": SCENES,
            "axes": {f"a{i}": {f"l{j}": {} for j in range(n)} for i, n in enumerate(sizes)},
            "retention": [0.3 + 0.1 * i for i in range(retentions)],
            "seeds": list(range(seeds)),
            "vanilla": vanilla,
        }
    )
    cells = expand(grid)
    expected = retentions * seeds + 0
    for size in sizes:
        expected *= size
    assert len(cells) == expected + vanilla
    assert len({c.name for c in cells}) == len(cells)
    assert len({tuple(sorted(c.factors.items())) for c in cells}) == len(cells)


def test_the_four_parts_grid():
    """The grid of the benchmark reads, and is the whole factorial design."""

    grid = Grid.read(Path(__file__).parents[2] / "benchmarks" / "grids" / "four_parts.yaml")
    assert len(expand(grid)) == 1 + 2 * 3 * 2 * 2 * 3


@pytest.mark.parametrize(
    "text",
    [
        "retention: true",
        "retention: [true]",
        "retention: ['0.5']",
        "retention: [.nan]",
        "seeds: [true]",
        "seeds: ['1']",
        "vanilla: 1",
        "task: {name: scenes, scenes: true}",
        "task: {name: scenes, scenes: '5'}",
        "task: {name: scenes, batch_size: true}",
        "base: {matcher: top-k, scorer: size, schedule: {retention: true}}",
        "base: {matcher: top-k, scorer: size, schedule: [{after_layer: true, ratio: 0.5}]}",
        "axes: {deep: {a: {matcher: " + "[" * 3000 + "]" * 3000 + "}}}",
        "name: " + "x" * 1_000_001,
    ],
)
def test_what_only_looks_like_a_value(text, tmp_path):
    """As in pipelines: true is no number, a text is none, and nothing is too deep or too long."""
    path = tmp_path / "grid.yaml"
    path.write_text(text + "\n")
    with pytest.raises(ConfigError) as caught:
        Grid.read(path)
    assert len(str(caught.value)) < 2000
