"""Retention arithmetic, solvers and other notations."""

import itertools
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightkv import Recipe, Schedule, StageSpec, VisionLayout
from lightkv.core.errors import ConfigError
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.core.pipeline.solver import TOLERANCE
from lightkv.core.stage.stage import Stage


def brute_force(stages, num_layers):
    """Mean share over the layers, layer by layer, token by token of a divisible image."""
    total = 0.0
    for layer in range(num_layers):
        share = 1.0
        for after, ratio in stages:
            if layer >= after:
                share *= 1 - ratio
        total += share
    return total / num_layers


def attempt(make, *arguments):
    """What `make` returns, and the error it raised instead."""
    try:
        return make(*arguments), None
    except ConfigError as error:
        return None, error


@given(data=st.data(), num_layers=st.integers(2, 40))
def test_retention_is_the_mean_share_over_layers(data, num_layers):
    layers = data.draw(st.lists(st.integers(0, num_layers - 1), unique=True, max_size=5))
    stages = [(layer, data.draw(st.floats(0, 0.95))) for layer in sorted(layers)]
    schedule = Schedule(StageSpec(after_layer=a, ratio=r) for a, r in stages)
    assert schedule.retention(num_layers) == pytest.approx(brute_force(stages, num_layers))
    shares = schedule.shares(num_layers)
    assert len(shares) == num_layers
    assert all(a >= b for a, b in itertools.pairwise(shares))
    assert Schedule(schedule.to_list()) == schedule


@given(
    num_layers=st.integers(4, 48),
    retention=st.floats(0.05, 1.0),
    windows=st.sampled_from([(4, 2, 1), (6, 4, 2), (None,), (None, None), (8, 4, 2, 1)]),
    ratio=st.sampled_from([0.3, 0.5]),
)
def test_solver_meets_the_target_or_names_the_range(num_layers, retention, windows, ratio):
    schedule, error = attempt(Schedule.for_retention, num_layers, retention, windows, ratio)
    if schedule is None:
        count = len(windows)
        if num_layers <= count:
            assert f"{count} stages need {count + 1} layers" in str(error)
        else:
            lowest = brute_force([(1 + i, ratio) for i in range(count)], num_layers)
            named = re.search(r"reach retentions from (\d\.\d+) to 1", str(error))
            assert float(named[1]) == pytest.approx(lowest, abs=6e-4)
            assert lowest > retention
            assert error.field == "retention"
        assert error.remedy
        return
    assert abs(schedule.retention(num_layers) - retention) <= 0.005 + 1e-9
    assert all(stage.after_layer >= 1 for stage in schedule.stages)
    assert [stage.windows for stage in schedule.stages] == list(windows)[: len(schedule)]
    assert all(0 < stage.ratio <= ratio + 1e-9 for stage in schedule.stages)


@given(num_layers=st.integers(3, 48), retention=st.floats(0.02, 1.0), after=st.integers(0, 6))
def test_a_single_stage_is_solved_exactly(num_layers, retention, after):
    schedule, error = attempt(Schedule.single, num_layers, retention, after)
    if schedule is None:
        assert retention <= after / num_layers
        words = f"above {after / num_layers:.3f}"
        assert (words if after < num_layers else f"0 … {num_layers - 1}") in str(error)
        return
    assert schedule.retention(num_layers) == pytest.approx(retention)


@pytest.mark.parametrize(("num_layers", "retention"), [(12, 0.2), (12, 0.35), (8, 0.55), (32, 0.2)])
def test_a_recipe_adds_stages_until_the_target_is_met(num_layers, retention):
    schedule = Recipe(windows=(4, 2, 1), retention=retention).schedule(num_layers)
    assert abs(schedule.retention(num_layers) - retention) <= 0.005


@given(num_layers=st.integers(2, 48), retention=st.floats(0.02, 0.99))
def test_without_a_ratio_stages_are_gentle_where_that_reaches(num_layers, retention):
    def solved(ratio):
        try:
            return Recipe(retention=retention, ratio=ratio).schedule(num_layers)
        except ConfigError as error:
            return str(error)

    gentle, half = solved(0.4), solved(0.5)
    assert solved(None) == (half if isinstance(gentle, str) else gentle)


def test_published_operating_point():
    schedule = Schedule(
        [
            {"after_layer": 15, "windows": 4, "ratio": 0.5},
            {"after_layer": 23, "windows": 2, "ratio": 0.5},
            {"after_layer": 31, "windows": 1, "ratio": 0.5},
        ]
    )
    assert schedule.retention(40) == pytest.approx((15 + 8 / 2 + 8 / 4 + 9 / 8) / 40)
    assert round(schedule.retention(40), 3) == 0.553


def test_release_strings_name_layer_indices():
    schedule = Schedule.from_release("12-18-24", "4-2-1", "0.5")
    assert schedule.after_layers == (13, 19, 25)
    assert [stage.windows for stage in schedule.stages] == [4, 2, 1]
    assert round(schedule.retention(32), 3) == 0.574
    for bad in (("12-x", "4", "0.5"), ("12-18", "4-2-1", "0.5"), ("12-18-24", "4-2", "0.5")):
        with pytest.raises(ConfigError):
            Schedule.from_release(*bad)


COUNTS = [
    ("lightkv", (1, 24, 24), (4, 2, 1), 0.5, [576, 288, 144, 72]),
    ("lightkv-release", (1, 24, 24), (4, 2, 1), 0.5, [576, 288, 145, 73]),
    ("lightkv-release", (1, 24, 24), (6, 4, 2), 0.5, [576, 288, 145, 73]),
    ("lightkv-release", (1, 24, 24), (4, 2, 1), 0.3, [576, 416, 293, 206]),
    ("lightkv-release", (1, 1, 2144), (6, 4, 2), 0.5, [2144, 1073, 537, 269]),
    ("lightkv-release", (1, 1, 2880), (6, 4, 2), 0.5, [2880, 1456, 729, 365]),
    ("tome", (1, 24, 24), (None,) * 3, 0.5, [576, 288, 144, 72]),
    ("random", (1, 24, 24), (None,) * 3, 0.5, [576, 288, 144, 72]),
]


@pytest.mark.parametrize(("preset", "grid", "windows", "ratio", "counts"), COUNTS)
def test_published_counts(preset, grid, windows, ratio, counts):
    layout = VisionLayout.from_spans([[(5, grid)]], length=counts[0] + 10)
    found = [layout.vision_counts[0]]
    for window in windows:
        plan = Stage.preset(preset, windows=window, ratio=ratio).plan(layout)
        # A plan knows all that follows; the places of survivors are not needed for counting.
        layout = layout.evolved(
            plan.length, plan.groups, plan.pads, layout.token_index(plan.order.device)
        )
        found.append(layout.vision_counts[0])
    assert found == counts


def test_six_windows_group_into_four_as_evenly_as_possible():
    """6 × 6 windows of 24 × 24 regroup into bands of 2, 2, 1, 1 windows."""
    pipeline = Pipeline.build(
        "lightkv",
        12,
        schedule=[
            {"after_layer": 2, "windows": 6, "ratio": 0.5},
            {"after_layer": 4, "windows": 4, "ratio": 0.5},
        ],
    )
    layout = VisionLayout.from_spans([[(0, (1, 24, 24))]], length=577)
    plan = pipeline.stages[0].plan(layout)
    assert {(b.population, b.keep) for b in plan.buckets} == {(16, 8)}
    layout = layout.evolved(
        plan.length, plan.groups, plan.pads, layout.token_index(plan.order.device)
    )
    plan = pipeline.stages[1].plan(layout)
    windows = {b.population: b.gather.shape[0] for b in plan.buckets}
    assert windows == {4 * 8: 4, 2 * 8: 8, 8: 4}


def test_what_a_schedule_prints_and_compares_by():
    schedule = Schedule([StageSpec(after_layer=3, ratio=0.25, windows=2)])
    assert repr(schedule) == "Schedule(λ=3 ρ=0.25 w=2)"
    assert len(schedule) == 1
    assert hash(schedule) == hash(Schedule(schedule.to_list()))
    assert schedule != Schedule([])


@pytest.mark.parametrize("min_layer", [0, 1, 3, 8])
def test_a_recipe_leaves_the_first_layers_alone(min_layer):
    """The wanted retention is reached all the same, with later or stronger stages."""
    schedule = Recipe(retention=0.7).schedule(28, min_layer)
    assert schedule.after_layers[0] >= min_layer
    assert abs(schedule.retention(28) - 0.7) <= 0.005


def test_more_stages_where_the_first_layers_are_taken():
    """Half of the layers must run first, so three stages of one half each are too few."""
    schedule = Recipe(retention=0.59).schedule(12, 6)
    assert schedule.after_layers[0] >= 6
    assert abs(schedule.retention(12) - 0.59) <= 0.005
    with pytest.raises(ConfigError, match="retention"):
        Recipe(retention=0.5).schedule(12, 6)


def test_a_stage_in_the_first_layers_is_refused_unless_it_removes_nothing():
    early = Schedule([{"after_layer": 2, "ratio": 0.5}])
    with pytest.raises(ConfigError, match=r"schedule\[0\].after_layer.*first 3 layers.*use 3 … 7"):
        early.check(8, 3)
    early.check(8, 2)
    Schedule([{"after_layer": 2, "ratio": 0.0}]).check(8, 3)


@given(
    num_layers=st.integers(4, 80),
    retention=st.floats(0.3, 1.0),
    ratio=st.floats(0.05, 0.95),
)
def test_fixed_depths_meet_the_retention(num_layers, retention, ratio):
    recipe = Recipe(retention=retention, depths=(0.25, 0.5, 0.75), ratios=(ratio, 0.5, 0.5))
    schedule, error = attempt(recipe.schedule, num_layers)
    if error is not None:
        assert retention <= math.floor(0.25 * num_layers + 0.5) / num_layers
        return
    assert schedule.retention(num_layers) == pytest.approx(retention, abs=0.006)
    if schedule.stages:
        wanted = [math.floor(d * num_layers + 0.5) for d in (0.25, 0.5, 0.75)]
        assert list(schedule.after_layers) == wanted


def test_fixed_depths_keep_their_ratios_where_these_fit():
    recipe = Recipe(retention=0.469, depths=(0.25, 0.5, 0.75), windows=(4, 2))
    schedule = recipe.schedule(32)
    assert [s.ratio for s in schedule.stages] == [0.5, 0.5, 0.5]
    assert [s.windows for s in schedule.stages] == [4, 2, 2]


def test_depths_that_coincide_move_apart():
    recipe = Recipe(retention=0.6, depths=(0.1, 0.2, 0.5))
    assert recipe.schedule(4).after_layers == (1, 2, 3)
    assert recipe.schedule(8, min_layer=3).after_layers == (3, 4, 5)
    assert Recipe(retention=0.8, depths=(0.1, 0.2, 0.5)).schedule(2).after_layers == (1,)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"depths": (0.5, 0.25)}, "depths"),
        ({"depths": (0.5, 1.0)}, "depths"),
        ({"depths": ()}, "depths"),
        ({"depths": (0.2, 0.5), "ratios": (0.5,)}, "ratios"),
        ({"depths": (0.2,), "ratios": (1.0,)}, "ratios"),
        ({"depths": (0.6,)}, "retention"),
    ],
)
def test_depths_that_cannot_work_are_refused(changes, field):
    with pytest.raises(ConfigError) as caught:
        Recipe(retention=0.5, **changes).schedule(10)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"after_layer": 2, "depths": (0.0, 0.5)}, "schedule.depths"),
        ({"after_layer": 2, "ratios": (0.5,)}, "schedule.ratios"),
        ({"ratios": (0.5, 0.5)}, "schedule.ratios"),
        ({"solve": "first"}, "schedule.solve"),
    ],
)
def test_a_recipe_whose_fields_exclude_each_other_is_refused(fields, named):
    with pytest.raises(ConfigError) as error:
        Recipe(retention=0.5, **fields).schedule(12)
    assert error.value.field == named


@given(
    num_layers=st.integers(4, 48),
    retention=st.floats(0.02, 0.99),
    ratios=st.lists(st.floats(0.1, 0.8), min_size=1, max_size=5),
)
def test_the_first_ratio_alone_is_solved_as_far_as_it_reaches(num_layers, retention, ratios):
    depths = tuple(place / num_layers for place in range(min(len(ratios), num_layers - 1)))
    ratios = tuple(ratios[: len(depths)])
    recipe = Recipe(retention=retention, depths=depths, ratios=ratios, solve="first")
    placed = recipe.schedule(num_layers)
    assert placed.retention(num_layers) == pytest.approx(retention, abs=TOLERANCE)
    found = [stage.ratio for stage in placed.stages]
    as_given = found[1:] == pytest.approx(ratios[1:])
    first_is_whole = found[0] == 0.0 and all(
        new <= old + 1e-9 for new, old in zip(found[1:], ratios[1:], strict=True)
    )
    assert as_given or first_is_whole


def test_what_few_tokens_keep_in_late_layers_does_not_shrink_with_the_retention():
    recipe = {"depths": (0.0, 0.33, 0.67), "ratios": (0.5, 0.5, 0.5)}
    for wanted, first in ((0.4, 0.685), (0.1, 0.171)):
        stages = Recipe(retention=wanted, solve="first", **recipe).schedule(12).stages
        assert [1 - stage.ratio for stage in stages] == pytest.approx([first, 0.5, 0.5], abs=1e-3)
