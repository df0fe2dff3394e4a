"""The laws of the property suite on keys and values: presets and random compositions on the cache."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_compositions import AGGREGATORS, check_reason, matchers, scorers

from lightkv.core.attention import QueryKeyView
from lightkv.core.contracts import PROTECTED
from lightkv.core.cost.flops import DecoderShape
from lightkv.core.errors import ConfigError
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.core.prompt import prompt_index
from lightkv.core.run.engine import Engine
from lightkv.core.stage.cache_entries import CachedLayer
from lightkv.core.stage.partitions import partition_of
from lightkv.testing import cases
from lightkv.testing.cases import HEAD_DIM, HEADS, KV_HEADS, Case, SampleShape

LAYERS, LAYER, TOLERANCE = 3, 1, 1e-5
SHAPE = DecoderShape(LAYERS, 16, HEADS, KV_HEADS, HEAD_DIM, 32, 50)
PRESETS = ("rand", "imgrand", "tome-cache", "elastic-cache")


@dataclass
class Entries:
    """One layer's entries before and after; `done` is None if nothing was removed."""

    key: torch.Tensor
    value: torch.Tensor
    done: CachedLayer | None
    keys: torch.Tensor
    values: torch.Tensor


def entries_of(case, row):
    """Query, key and value `[1, H, n, d]` of one row."""
    rng = torch.Generator().manual_seed(case.seed * 1000 + row)
    length = case.shapes[row].length
    return [torch.randn(1, h, length, HEAD_DIM, generator=rng) for h in (HEADS, KV_HEADS, KV_HEADS)]


def batch_of(case):
    """The rows left-padded; what stands in the padding must not matter, so it is large."""
    tensors = [torch.full((len(case.shapes), h, case.length, HEAD_DIM), 30.0) for h in (4, 2, 2)]
    for row, shape in enumerate(case.shapes):
        for whole, own in zip(tensors, entries_of(case, row), strict=True):
            whole[row, :, case.length - shape.length :] = own[0]
    return tensors


def compressed(pipeline, layout, tensors):
    query, key, value = tensors
    prefill = Engine(pipeline, SHAPE).begin(layout)
    prefill.read_embeddings(value.transpose(1, 2).flatten(2))  # in place of what enters the decoder
    if prefill.cache_needs():
        prompt = prompt_index(layout, key.device)
        prefill.read_cache_attention(LAYER, QueryKeyView(query, key, HEAD_DIM**-0.5, prompt))
    out = prefill.compress_cache(LAYER, key, value)
    keys, values = (key, value) if out is None else out
    return Entries(key, value, prefill.cached.get(LAYER), keys, values)


def check_all(pipeline, layout, entries):
    """Budget, text, order, conservation and convexity of one layer."""
    done = entries.done
    rounds = pipeline.on_cache.rounds
    source = pipeline.on_cache.entering(layout)
    wanted = tuple(expected_counts(pipeline, source))
    if done is None:
        assert wanted == source.vision_counts
        return
    assert done.layout.vision_counts == wanted
    check_untouched(entries, source, done)
    valid = done.layout.valid_mask(done.kept.device)
    for row in range(valid.shape[0]):
        assert bool((done.kept[row][valid[row]].diff() > 0).all()), "entries out of order"
    given = done.assignment
    assert torch.equal(given.slot[given.survivor], torch.arange(given.survivor.numel()))
    if all(stage.aggregator.convex for stage in rounds):
        for before, after in ((entries.key, entries.keys), (entries.value, entries.values)):
            found = taken(after, done.layout)
            torch.testing.assert_close(
                found, given.merged(taken(before, source)), atol=TOLERANCE, rtol=TOLERANCE
            )


def counts_after(stage, population):
    return stage.matcher.keep(population, stage.ratio) if population else 0


def expected_counts(pipeline, source):
    """What the budgets of all rounds leave of each row: of every image, or of the row as a whole.

    Separators and the last position are protected: they stay and are no part of any budget.
    """
    partitioner = pipeline.on_cache.stage.partitioner
    for row in range(source.batch_size):
        label = partition_of(source, row, partitioner, None).label
        total = int((label == PROTECTED).sum())
        for window in np.unique(label[label != PROTECTED]):
            left = int((label == window).sum())
            for stage in pipeline.on_cache.rounds:
                left = counts_after(stage, left)
            total += left
        yield total


def taken(entries, layout):
    """`[V, H·d]` of the entries that take part."""
    flat = entries.transpose(1, 2).flatten(2).reshape(-1, KV_HEADS * HEAD_DIM)
    return flat[layout.token_index(entries.device).flat]


def check_untouched(entries, source, done):
    """Entries that take no part (text, unless it is in scope) are bitwise the same, in order.

    So is the last entry of every row, whatever it is.
    """
    for before, after in ((entries.key, entries.keys), (entries.value, entries.values)):
        assert torch.equal(before[:, :, -1], after[:, :, -1])
        old = before.transpose(1, 2).flatten(2).reshape(-1, KV_HEADS * HEAD_DIM)
        new = after.transpose(1, 2).flatten(2).reshape(-1, KV_HEADS * HEAD_DIM)
        text = source.token_index(old.device).text, done.layout.token_index(old.device).text
        assert torch.equal(old[text[0]], new[text[1]])


def check_single_rows(pipeline, case, entries):
    for row, shape in enumerate(case.shapes):
        alone = compressed(pipeline, case.single(row), entries_of(case, row))
        length = alone.keys.shape[2]
        for whole, own in ((entries.keys, alone.keys), (entries.values, alone.values)):
            found = whole[row : row + 1, :, whole.shape[2] - length :]
            torch.testing.assert_close(found, own, atol=TOLERANCE, rtol=TOLERANCE)
        assert shape.length >= length


def check_again_and_on_meta(pipeline, layout, tensors, entries):
    again = compressed(pipeline, layout, tensors)
    assert torch.equal(again.keys, entries.keys)
    assert torch.equal(again.values, entries.values)
    if not any(stage.matcher.dynamic for stage in pipeline.on_cache.rounds):
        ghost = compressed(pipeline, layout, [t.to("meta") for t in tensors])
        assert ghost.keys.shape == entries.keys.shape
        assert ghost.values.shape == entries.values.shape


def built(spec, ratio, scope):
    stage = {"site": "cache", "ratio": ratio, "scope": scope}
    return Pipeline.build(spec, LAYERS, schedule=[stage])


scopes = st.sampled_from(["vision", "all"])
ratios = st.one_of(st.floats(0.01, 0.95), st.sampled_from([0.5, 0.9]))


@pytest.mark.parametrize("preset", PRESETS)
@given(case=cases(windowed=False), scope=scopes, ratio=ratios)
def test_presets_obey_the_laws(preset, case, scope, ratio):
    pipeline = built(preset, ratio, scope)
    layout, tensors = case.layout(), batch_of(case)
    entries = compressed(pipeline, layout, tensors)
    check_all(pipeline, layout, entries)
    check_again_and_on_meta(pipeline, layout, tensors, entries)
    check_single_rows(pipeline, case, entries)


@pytest.mark.parametrize("preset", PRESETS)
@given(case=cases(windowed=False), scope=scopes)
def test_ratio_zero_is_the_identity(preset, case, scope):
    tensors = batch_of(case)
    entries = compressed(built(preset, 0.0, scope), case.layout(), tensors)
    assert entries.done is None
    assert torch.equal(entries.keys, tensors[1])


@settings(max_examples=50)
@given(data=st.data())
def test_compositions_obey_the_laws_or_are_refused_when_built(data):
    case, scope = data.draw(cases(windowed=False)), data.draw(scopes)
    roles = {
        "partitioner": {"name": "whole", "scope": "sample"},
        "scorer": data.draw(st.one_of(st.none(), scorers(1), scorers(1))),
        "matcher": data.draw(matchers(1)),
        "aggregator": data.draw(st.sampled_from(AGGREGATORS)),
    }
    try:
        pipeline = built(roles, data.draw(ratios), scope)
    except ConfigError as error:
        check_reason(error)
        return
    layout, tensors = case.layout(), batch_of(case)
    entries = compressed(pipeline, layout, tensors)
    if not any(stage.matcher.dynamic for stage in pipeline.on_cache.rounds):
        check_all(pipeline, layout, entries)
    check_again_and_on_meta(pipeline, layout, tensors, entries)


def test_wrapped_scorers_take_part_in_later_rounds():
    """Their observations have one more axis, which has to shrink with the tokens too."""
    case = Case((SampleShape((2, 3), ((1, 4, 4, False),)),), (None,), 0.5, 3)
    roles = {
        "partitioner": {"name": "whole", "scope": "sample"},
        "scorer": {"name": "sum", "of": ["causal-attention", "prompt-attention"]},
        "matcher": "bipartite",
        "aggregator": "weighted-mean",
    }
    pipeline = built(roles, 0.9, "vision")
    assert len(pipeline.on_cache.rounds) > 2
    layout, tensors = case.layout(), batch_of(case)
    entries = compressed(pipeline, layout, tensors)
    check_all(pipeline, layout, entries)
    check_again_and_on_meta(pipeline, layout, tensors, entries)
