"""Groups of layers and blocks of vLLM, counted without vLLM."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightkv import VisionLayout
from lightkv.checkpoints.published import DESCRIPTIONS
from lightkv.core.cost.counting import ViewSize, count_savings, prompt_layout
from lightkv.core.cost.flops import DecoderShape
from lightkv.core.errors import ConfigError
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.integrations.vllm.blocks import count_blocks, segment_tokens, segments_of
from lightkv.integrations.vllm.groups import group_layers
from lightkv.integrations.vllm.plan import ServingPlan

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def segments(*sizes):
    found, first = [], 0
    for size in sizes:
        found.append(tuple(range(first, first + size)))
        first += size
    return found


def shape_of(num_layers, **changes):
    sizes = {
        "hidden_size": 64,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 16,
        "intermediate_size": 128,
        "vocab_size": 100,
    }
    return DecoderShape(num_layers, **{**sizes, **changes})


@pytest.mark.parametrize(
    ("sizes", "size", "groups", "padding"),
    [
        ((40,), 40, 1, 0),
        ((10, 10, 10, 10), 10, 4, 0),
        ((16, 8, 8, 8), 8, 5, 0),
        ((15, 8, 8, 9), 8, 6, 8),
        ((12, 13), 13, 2, 1),  # less than 1.5 times as many: the largest
        ((2, 3), 2, 3, 1),  # 1.5 times as many: the smallest
        ((2, 30), 2, 16, 0),
        ((1, 1, 7), 1, 9, 0),
    ],
)
def test_groups_of_segments(sizes, size, groups, padding):
    found = group_layers(segments(*sizes))
    assert (found.size, len(found.groups), found.padding) == (size, groups, padding)


def test_layers_are_dealt_out_to_the_groups_of_a_segment():
    found = group_layers(segments(2, 3))
    assert [group.layers for group in found.groups] == [(0, 1), (2, 4), (3,)]
    assert [group.segment for group in found.groups] == [0, 1, 1]
    assert [group.padding for group in found.groups] == [0, 0, 1]


@given(sizes=SIZES)
def test_every_layer_is_in_one_group_of_its_segment(sizes):
    given_layers = segments(*sizes)
    found = group_layers(given_layers)
    for number, layers in enumerate(given_layers):
        dealt = [group.layers for group in found.groups if group.segment == number]
        assert sorted(layer for group in dealt for layer in group) == list(layers)
    assert all(0 < len(group.layers) <= found.size for group in found.groups)
    assert all(len(group.layers) + group.padding == found.size for group in found.groups)
    assert max(len(group.layers) for group in found.groups) == found.size


def test_segments_are_the_layers_between_stages():
    schedule = [{"after_layer": 2, "ratio": 0.5}, {"after_layer": 5, "ratio": 0.0}]
    pipeline = Pipeline.build("tome", 6, schedule=schedule)
    assert segments_of(pipeline) == ((0, 1), (2, 3, 4, 5))  # the second stage removes nothing
    assert segments_of(Pipeline.build("tome", 6, schedule=[])) == (tuple(range(6)),)
    before = Pipeline.build("random", 6, schedule=[{"after_layer": 0, "ratio": 0.5}])
    assert segments_of(before) == (tuple(range(6)),)
    layout = prompt_layout([ViewSize((1, 8, 8))], 5)
    assert segment_tokens(before, layout) == (32 + 5,)


def test_a_prompt_of_the_bundled_model():
    """Blocks of 32 tokens, 144 of 154 tokens vision: the blocks that a running engine took."""
    pipeline = Pipeline.build("lightkv", 12, retention=0.469)
    layout = prompt_layout([ViewSize((1, 12, 12))], 10)
    found = count_blocks(pipeline, shape_of(12), layout, block_size=32)
    assert found.compressed.tokens == (154, 90, 50, 30)
    assert found.compressed.prompt_blocks == found.compressed.blocks == (5, 3, 2, 1)
    assert found.vanilla.blocks == (5,)
    assert found.ratio == 11 * 3 / (5 * 12)


@given(
    data=st.data(),
    preset=st.sampled_from(["lightkv", "fastv", "tome", "pyramiddrop", "lightkv-release"]),
    retention=st.floats(0.3, 0.9),
    grid=st.tuples(st.integers(1, 2), st.integers(8, 20), st.integers(8, 20)),
    text=st.integers(0, 40),
)
def test_tokens_are_those_that_the_layers_cache(data, preset, retention, grid, text):
    shape = shape_of(data.draw(st.integers(8, 28)))
    pipeline = Pipeline.build(preset, shape.num_layers, retention=retention)
    layout = prompt_layout([ViewSize(grid, newline=data.draw(st.booleans()))], text)
    counted = count_savings(pipeline, shape, layout, new_tokens=1).compressed
    held = segment_tokens(pipeline, layout)
    for tokens, layers in zip(held, segments_of(pipeline), strict=True):
        assert {counted.vision_tokens[layer] + text for layer in layers} == {tokens}
    found = count_blocks(pipeline, shape, layout, block_size=1)
    empty = sum(g.padding * held[g.segment] for g in found.compressed.grouping.groups)
    assert found.compressed.kv_bytes == counted.kv_bytes + empty * shape.kv_bytes_per_token


@pytest.mark.parametrize("preset", ["lightkv", "lightkv-plus", "fastv", "tome", "pyramiddrop"])
@pytest.mark.parametrize("text", [0, 1, 10])
def test_tokens_are_those_that_the_scheduler_gives_blocks_for(preset, text):
    pipeline = Pipeline.build(preset, 12, retention=0.469)
    layout = prompt_layout([ViewSize((1, 12, 12)), ViewSize((1, 9, 16), newline=True)], text)
    spans = ((0, "one"), (144, "other"))
    entry = ServingPlan(pipeline).entry(spans, layout.samples[0], layout.length)
    held = segment_tokens(pipeline, layout)
    assert held == tuple(entry.tokens(number, layout.length) for number in range(len(held)))


def test_several_pictures_and_a_view_too_small_for_its_windows():
    pipeline = Pipeline.build("fastv", 8, retention=0.5)
    layout = VisionLayout.from_spans([[(1, (1, 6, 6)), (40, (1, 1, 1))]], length=50)
    (step,) = pipeline.between[2].planned(layout)
    assert segment_tokens(pipeline, layout) == (50, step.after().length)


@given(
    generated=st.integers(1, 300),
    block_size=st.sampled_from([1, 16, 32, 128]),
    budget=st.integers(0, 10**8),
)
def test_blocks_grow_with_the_answer_and_fill_the_budget(generated, block_size, budget):
    shape = shape_of(12)
    pipeline = Pipeline.build("lightkv", 12, retention=0.55)
    layout = prompt_layout([ViewSize((1, 12, 12))], 10)
    counted = count_blocks(pipeline, shape, layout, block_size=block_size, new_tokens=generated)
    for side in (counted.vanilla, counted.compressed):
        assert side.page_bytes == block_size * side.grouping.size * shape.kv_bytes_per_token
        for group, blocks in zip(side.grouping.groups, side.blocks, strict=True):
            last = side.tokens[group.segment] + generated - 1
            assert (blocks - 1) * block_size < last <= blocks * block_size
        requests = side.requests_under(budget)
        assert requests == 0 or (requests * sum(side.blocks) + 1) * side.page_bytes <= budget
        assert ((requests + 1) * sum(side.blocks) + 1) * side.page_bytes > budget


def test_bytes_are_those_of_one_process():
    layout = prompt_layout([ViewSize((1, 12, 12))], 10)
    shape = DESCRIPTIONS["llava-v1.5-13b"].shape
    pipeline = Pipeline.build("lightkv", 40, retention=0.469)
    found = count_blocks(pipeline, shape, layout, block_size=16).vanilla
    assert found.page_bytes == 16 * 40 * 2 * 5120 * 2


def test_what_cannot_be_counted_is_refused():
    layout, shape = prompt_layout([ViewSize((1, 12, 12))], 10), shape_of(8)
    pipeline = Pipeline.build("lightkv", 8, retention=0.55)
    for wrong in ({"block_size": 0}, {"block_size": 16, "new_tokens": 0}):
        with pytest.raises(ConfigError, match="at least 1"):
            count_blocks(pipeline, shape, layout, **wrong)
    cached = Pipeline.build("tome-cache", 8, retention=0.5)
    with pytest.raises(ConfigError, match=r"schedule\[0\].site.*between layers"):
        count_blocks(cached, shape, layout, block_size=16)
    sliding = shape_of(8, windows=(None, 64) * 4)
    with pytest.raises(ConfigError, match="sliding windows"):
        count_blocks(pipeline, sliding, layout, block_size=16)
