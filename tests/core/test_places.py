"""Where a decoder lets stages act: what the solver chooses there, and what is refused elsewhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightkv import Pipeline, Recipe, Schedule
from lightkv.core.errors import ConfigError
from lightkv.core.needs import Need
from lightkv.core.pipeline.places import Places, listed_places, nearest_place
from lightkv.core.run.adapter import Adapter
from lightkv.integrations.vllm.schedules import serving_pipeline

LINEAR = {layer: "is recurrent" for layer in range(24) if layer % 4 != 3}
HYBRID = Places(unread=LINEAR)
"""24 layers, of which every fourth is one of attention."""


@st.composite
def places(draw, num_layers=24):
    first = draw(st.integers(0, 6))
    last = draw(st.none() | st.integers(first + 2, num_layers + 2))
    unread = draw(st.sets(st.integers(0, num_layers - 1), max_size=num_layers - 6))
    return Places(first, last, dict.fromkeys(unread, "is recurrent"))


@given(places(), st.sampled_from([Need.LAST_ROW, Need.NEXT_LAST_ROW, Need.EMBEDDINGS]))
def test_allowed_places_are_those_where_the_layer_can_be_read(places, need):
    last = 23 if places.last is None else places.last
    read = {Need.LAST_ROW: -1, Need.NEXT_LAST_ROW: 0}.get(need)
    expected = [
        place
        for place in range(places.first, min(last, 23) + 1)
        if read is None or (place + read >= 0 and place + read not in places.unread)
    ]
    assert list(places.allowed(24, frozenset({need}))) == expected


@given(
    places(), st.floats(0.05, 1.0), st.sampled_from(["lightkv", "pyramiddrop", "random", "tome"])
)
def test_solved_stages_stand_at_allowed_places(places, retention, preset):
    try:
        pipeline = Pipeline.build(preset, 24, places=places, retention=retention)
    except ConfigError:
        return
    for placed in pipeline.stages:
        assert placed.after_layer in places.allowed(24, placed.stage.needs)
    assert abs(pipeline.retention - retention) <= 0.006
    assert pipeline.places is places


@given(st.floats(0.05, 1.0), st.lists(st.integers(1, 23), unique=True, min_size=1).map(sorted))
def test_the_solver_refuses_only_what_no_allowed_layers_reach(retention, allowed):
    try:
        schedule = Recipe(retention=retention).schedule(24, allowed=allowed)
    except ConfigError:
        halves = Schedule({"after_layer": place, "ratio": 0.5} for place in allowed)
        assert halves.retention(24) > retention
        return
    assert set(schedule.after_layers) <= set(allowed)
    assert abs(schedule.retention(24) - retention) <= 0.005 + 1e-9


@given(st.integers(0, 4), st.floats(0.05, 1.0), st.integers(4, 48))
def test_places_without_gaps_are_solved_as_a_first_layer_is(first, retention, num_layers):
    def attempt(**where):
        try:
            return Pipeline.build("lightkv", num_layers, retention=retention, **where).schedule
        except ConfigError as error:
            return str(error)

    assert attempt(places=Places(first)) == attempt(min_layer=first)


def test_many_stages_are_spread_over_allowed_layers():
    """There are too many choices of 8 among 47 layers to look at each; gaps count allowed layers."""
    odd = range(1, 48, 2)
    found = Recipe(windows=(None,) * 8, ratio=0.2, retention=0.5).schedule(48, allowed=odd)
    assert set(found.after_layers) <= set(odd)


def test_depths_snap_to_the_nearest_allowed_layer():
    """0.25, 0.5, 0.75 of 24 are 6, 12, 18; its attention of the next layer can be read at 3, 7, 11, …"""
    built = Pipeline.build("pyramiddrop", 24, places=HYBRID, retention=0.5)
    assert built.schedule.after_layers == (7, 11, 19)
    assert Pipeline.build("pyramiddrop", 24, retention=0.5).schedule.after_layers == (6, 12, 18)
    late = Pipeline.build("pyramiddrop", 24, places=Places(last=9), retention=0.5)
    assert late.schedule.after_layers == (6, 9)


REFUSED = [
    (
        HYBRID,
        "fastv",
        {},
        2,
        r"last_row of layer 1, and layer 1 is recurrent",
        (4, "4, 8, 12, 16, 20"),
    ),
    (HYBRID, "pyramiddrop", {}, 5, "next_last_row of layer 5", (7, "3, 7, 11, 15, 19, 23")),
    (Places(first=3), "random", {}, 1, "first 3 layers of this model", (3, "3 … 23")),
    (Places(last=9), "random", {}, 12, "behind layer 8 of this model", (9, "0 … 9")),
    (Places(last=9, why_last="they share"), "random", {}, 12, "they share", (9, "0 … 9")),
    (Places(first=3), "random", {}, 24, "nothing is left", (23, "3 … 23")),
]


@pytest.mark.parametrize(("places", "preset", "changes", "place", "reason", "works"), REFUSED)
def test_a_stage_elsewhere_is_refused_with_the_nearest_place(
    places, preset, changes, place, reason, works
):
    stages = [{"after_layer": place, "ratio": 0.5}]
    with pytest.raises(ConfigError, match=reason) as caught:
        Pipeline.build(preset, 24, places=places, schedule=stages, **changes)
    nearest, allowed = works
    assert caught.value.field == "schedule[0].after_layer"
    assert caught.value.value == place
    assert caught.value.remedy == f"use {allowed}; the nearest is {nearest}"
    stages[0]["after_layer"] = nearest
    Pipeline.build(preset, 24, places=places, schedule=stages)


def test_a_recipe_of_one_fixed_layer_is_refused_too():
    with pytest.raises(ConfigError, match=r"layer 1 is recurrent.*the nearest is 4"):
        Pipeline.build("fastv", 24, places=HYBRID)


def test_unread_layers_keep_only_components_away_that_read_attention():
    stages = [{"after_layer": 2, "ratio": 0.5}]
    Pipeline.build("random", 24, places=HYBRID, schedule=stages)
    Pipeline.build("divprune", 24, places=HYBRID)
    nothing = [{"after_layer": 2, "ratio": 0.0}]
    Pipeline.build("fastv", 24, places=HYBRID, schedule=nothing)


def test_nowhere_is_said():
    nowhere = Places(unread=dict.fromkeys(range(24), "is recurrent"))
    stages = [{"after_layer": 2, "ratio": 0.5}]
    with pytest.raises(ConfigError, match="no layer of this model works for these components"):
        Pipeline.build("fastv", 24, places=nowhere, schedule=stages)
    with pytest.raises(ConfigError, match="this model has 0: after_layer none"):
        Pipeline.build("lightkv", 24, places=nowhere)


def test_a_stage_on_the_cache_reads_the_layers_that_can_be_read():
    built = Pipeline.build("elastic-cache", 24, places=HYBRID)
    assert built.tapped_layers == (3, 7, 11, 15, 19, 23)


@pytest.mark.parametrize("retention", [0.4, 0.55, 0.8])
def test_an_engine_keeps_to_the_places(retention):
    built = serving_pipeline("lightkv", 24, block_size=16, places=HYBRID, retention=retention)
    allowed = HYBRID.allowed(24, frozenset({Need.LAST_ROW}))
    assert set(built.schedule.after_layers) <= set(allowed)


def test_by_default_an_adapter_says_its_first_layer():
    class Late(Adapter):
        def min_layer(self, model):
            return 3

    Late.__abstractmethods__ = frozenset()
    assert Late().places(None) == Places(first=3)


def test_lists_of_places():
    assert listed_places([1, 4, 5, 6, 7, 9, 10]) == "1, 4 … 7, 9, 10"
    assert nearest_place(6, (4, 8)) == 8
