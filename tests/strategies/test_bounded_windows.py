"""Windows of a bounded population."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightkv import Stage, VisionLayout
from lightkv.core.errors import ConfigError


def stage_of(windows=None, **partitioner):
    partitioner = {"name": "windows", **partitioner}
    return Stage.preset("tome", ratio=0.5, partitioner=partitioner, windows=windows)


def after(layout, plan):
    index = layout.token_index(torch.device("cpu"))
    return layout.evolved(plan.length, plan.groups, plan.pads, index)


def held(layout, stage):
    """Current tokens of each window."""
    return [n for group in after(layout, stage.plan(layout)).groups for n in before(layout, group)]


def before(layout, group):
    totals = np.zeros(group.population.size)
    share = layout.groups[0].population / np.bincount(layout.groups[0].label)
    np.add.at(totals, group.label, share[layout.groups[0].label])
    return totals.round().astype(int).tolist()


@given(
    grid=st.tuples(st.integers(1, 5), st.integers(1, 20), st.integers(1, 20)),
    population=st.integers(2, 60),
    windows=st.sampled_from([None, 1, {"space": 1, "time": 1}]),
)
def test_no_window_holds_more_through_three_stages(grid, population, windows):
    layout = VisionLayout.from_spans([[(1, grid)]], length=int(np.prod(grid)) + 2)
    stage = stage_of(windows, population=population)
    for _ in range(3):
        populations = held(layout, stage)
        assert sum(populations) == sum(layout.vision_counts)
        assert max(populations) <= population
        layout = after(layout, stage.plan(layout))


@given(side=st.integers(2, 16), windows=st.integers(1, 2))
def test_a_bound_that_holds_anyway_changes_nothing(side, windows):
    layout = VisionLayout.from_spans([[(1, (2, side, side))]], length=2 * side * side + 2)
    plain, bounded = stage_of(windows), stage_of(windows, population=side * side)
    one, other = plain.plan(layout), bounded.plan(layout)
    assert torch.equal(one.window, other.window)
    assert torch.equal(one.order, other.order)


def test_as_few_windows_as_the_bound_allows():
    layout = VisionLayout.from_spans([[(0, (3, 32, 32))]], length=3 * 1024 + 1)
    assert held(layout, stage_of(population=256)) == [256] * 12
    assert held(layout, stage_of(population=255))[:9] == [
        121,
        121,
        110,
        121,
        121,
        110,
        110,
        110,
        100,
    ]


def test_time_is_cut_where_space_cannot_be():
    layout = VisionLayout.from_spans([[(0, (8, 1, 1))]], length=9)
    windows = {"space": 1, "time": 1}
    assert held(layout, stage_of(windows, population=3)) == [3, 3, 2]


def test_what_cannot_be_bounded_is_refused():
    layout = VisionLayout.from_spans([[(0, (1, 8, 8))]], length=65)
    coarse = after(layout, stage_of(1).plan(layout))
    with pytest.raises(ConfigError, match="cannot be cut finer, and a window holds 32 tokens"):
        stage_of(population=16).plan(coarse)
    assert held(coarse, stage_of(population=16, clamp=True)) == [32]
    with pytest.raises(ConfigError, match="share the budget"):
        stage_of(2, population=16, budget="view").plan(layout)
    with pytest.raises(ConfigError, match="needs to know how many"):
        stage_of().plan(layout)
    with pytest.raises(ConfigError):
        stage_of(population=1)
