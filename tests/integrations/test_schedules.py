"""Schedules that waste little of vLLM's blocks, for the same retention."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightkv.checkpoints.published import DESCRIPTIONS
from lightkv.core.cost.counting import prompt_layout
from lightkv.core.errors import ConfigError
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.core.pipeline.schedule import Schedule
from lightkv.integrations.vllm.blocks import count_blocks, segments_of
from lightkv.integrations.vllm.groups import group_layers
from lightkv.integrations.vllm.schedules import serving_pipeline

STAGES = [{"after_layer": 5, "ratio": 0.5}, {"after_layer": 8, "ratio": 0.25}]
SEARCHED = ["lightkv", "tome", "lightkv-plus", "random"]


def attempt(make, *arguments, **keywords):
    """What `make` returns, and the error it raised instead."""
    try:
        return make(*arguments, **keywords), None
    except ConfigError as error:
        return None, error


def padding(pipeline):
    return group_layers(segments_of(pipeline)).padding


@given(
    num_layers=st.integers(6, 48),
    retention=st.floats(0.15, 1.0),
    min_layer=st.integers(0, 4),
    preset=st.sampled_from(SEARCHED),
    block_size=st.sampled_from([16, 32, 128]),
)
def test_retention_is_met_and_no_layers_are_added(
    num_layers, retention, min_layer, preset, block_size
):
    common = {"min_layer": min_layer, "retention": retention}
    plain, refused = attempt(Pipeline.build, preset, num_layers, **common)
    found, error = attempt(serving_pipeline, preset, num_layers, block_size=block_size, **common)
    assert str(error) == str(refused)
    if refused is not None:
        return
    assert abs(found.retention - retention) <= 0.005 + 1e-9
    assert padding(found) <= padding(plain)
    assert len(found.schedule) == len(plain.schedule)
    assert found.asked == plain.asked == retention
    assert all(after >= max(1, min_layer) for after in found.schedule.after_layers)
    for mine, theirs in zip(found.schedule.stages, plain.schedule.stages, strict=True):
        assert (mine.windows, mine.overrides) == (theirs.windows, theirs.overrides)
        assert 0 < mine.ratio <= 0.5
    again = serving_pipeline(preset, num_layers, block_size=block_size, **common)
    assert again.spec == found.spec
    # The schedule as a list is all that another host needs.
    listed = Pipeline.build(
        preset, num_layers, min_layer=min_layer, schedule=found.schedule.to_list()
    )
    assert listed.spec == found.spec


@pytest.mark.parametrize(
    ("num_layers", "retention", "after_layers"),
    [
        (12, 0.55, (4, 7, 10)),  # as the plain solver: 12 groups without padding would be too many
        (12, 0.469, (3, 6, 9)),
        (24, 0.469, (6, 12, 18)),
        (32, 0.55, (12, 18, 24)),
        (32, 0.469, (8, 16, 24)),
        (40, 0.55, (15, 20, 30)),
        (40, 0.469, (10, 20, 30)),
    ],
)
def test_chosen_layers(num_layers, retention, after_layers):
    """Fixed here: another choice would be another answer of the same engine."""
    found = serving_pipeline("lightkv", num_layers, block_size=16, retention=retention)
    assert found.schedule.after_layers == after_layers


@pytest.mark.parametrize("retention", [0.7, 0.55, 0.469, 0.35])
@pytest.mark.parametrize("model", ["llava-v1.5-7b", "llava-v1.5-13b", "qwen2.5-vl-7b"])
def test_a_request_takes_no_more_blocks(model, retention):
    described = DESCRIPTIONS[model]
    shape, layout = described.shape, prompt_layout(described.views, 75)
    plain = Pipeline.build("lightkv", shape.num_layers, retention=retention)
    found = serving_pipeline("lightkv", shape.num_layers, block_size=16, retention=retention)
    ratios = [
        count_blocks(each, shape, layout, block_size=16, new_tokens=100).ratio
        for each in (plain, found)
    ]
    assert ratios[1] <= ratios[0]


@pytest.mark.parametrize("source", ["fastv", "dart", "pyramiddrop", "tome-cache", "vispruner"])
def test_recipes_with_layers_of_their_own_stay(source):
    plain = Pipeline.build(source, 32, retention=0.55)
    assert serving_pipeline(source, 32, block_size=16, retention=0.55) == plain


def test_listed_stages_stay():
    found = serving_pipeline("tome", 12, block_size=16, schedule=STAGES)
    assert found.schedule == Schedule(STAGES)
    assert found.asked is None
    with pytest.raises(ConfigError, match="explicit stages"):
        serving_pipeline(found.spec, 12, block_size=16, retention=0.5)


def test_a_retention_of_one_is_one_segment():
    found = serving_pipeline("lightkv", 12, block_size=16, retention=1.0)
    assert len(found.schedule) == 0
    assert len(segments_of(found)) == 1


@pytest.mark.parametrize("wrong", [{"block_size": 0}, {"block_size": 16, "tokens": 0}])
def test_sizes_are_positive(wrong):
    with pytest.raises(ConfigError, match="at least 1"):
        serving_pipeline("lightkv", 12, **wrong)


def test_core_weighs_any_surcharge():
    """The solver knows no engine: what it is told to avoid it avoids, within the tolerance."""
    plain = Schedule.for_retention(40, 0.55)
    assert Schedule.for_retention(40, 0.55, surcharge=lambda layers, ratios: 0.0) == plain

    def odd(layers, ratios):
        return math.inf if any(layer % 2 for layer in layers) else 0.0

    found = Schedule.for_retention(40, 0.55, surcharge=odd)
    assert all(layer % 2 == 0 for layer in found.after_layers)
    assert abs(found.retention(40) - 0.55) <= 0.005
    refused = Schedule.for_retention(40, 0.55, surcharge=lambda layers, ratios: math.inf)
    assert refused == plain
