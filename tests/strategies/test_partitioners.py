"""Windows of bounded population: what is known of them follows from the layout alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightkv import Pipeline, VisionLayout
from lightkv.core.errors import ConfigError
from lightkv.core.plugins import build_component
from lightkv.testing import StrategySuite

sides = st.integers(1, 12)
CPU = torch.device("cpu")


def partition(layout, windows, **parameters):
    partitioner = build_component("partitioner", {"name": "windows", **parameters})
    return partitioner.partition(layout.samples[0], layout.groups[0], windows)


def one_view(frames, rows, columns):
    return VisionLayout.from_spans([[(2, (frames, rows, columns))]])


@given(sides, sides, sides, st.integers(2, 40), st.booleans())
def test_no_window_holds_more_and_the_asked_windows_are_only_cut(frames, rows, columns, most, time):
    layout = one_view(frames, rows, columns)
    windows = {"space": 1, "time": 1} if time else 1
    label = partition(layout, windows, population=most).label
    coarse = partition(layout, windows).label
    assert np.bincount(label).max() <= most or (not time and rows * columns == 1)
    # Every window lies inside one of those that were asked for.
    for window in np.unique(label):
        assert np.unique(coarse[label == window]).size == 1


@given(sides, sides, st.integers(2, 40))
def test_a_bound_that_is_met_changes_nothing(rows, columns, extra):
    layout = one_view(1, rows, columns)
    bounded = partition(layout, 1, population=rows * columns + extra)
    assert np.array_equal(bounded.label, partition(layout, 1).label)


def test_later_windows_grow_as_tokens_get_fewer():
    """The bound counts tokens: after halving, a window may cover twice the cells."""
    roles = {"partitioner": {"name": "windows", "population": 64}}
    schedule = [{"after_layer": n, "ratio": 0.5, "windows": 1} for n in (1, 2, 3)]
    pipeline = Pipeline.build("lightkv", 8, schedule=schedule, **roles)
    layout, found = one_view(1, 32, 32), []
    for stage in pipeline.stages:
        plan = stage.plan(layout)
        found.append(sorted({bucket.population for bucket in plan.buckets}))
        layout = layout.evolved(plan.length, plan.groups, plan.pads, layout.token_index(CPU))
    assert found == [[64], [64], [64]]


def test_the_population_is_a_number_from_two():
    with pytest.raises(ConfigError, match="population"):
        build_component("partitioner", {"name": "windows", "population": 1})


class TestBoundedWindows(StrategySuite):
    preset = {
        "partitioner": {"name": "windows", "population": 6},
        "scorer": "prompt-attention",
        "matcher": "bipartite",
        "aggregator": "weighted-mean",
        "schedule": [{"after_layer": 1, "ratio": 0.5, "windows": 1}],
    }
    temporal = True
