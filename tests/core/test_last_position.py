"""The last position of a prompt survives every stage, whatever it holds: layouts, plans and counts."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightkv import Pipeline, Stage, VisionLayout
from lightkv.core.contracts import PROTECTED, Partition, Partitioner
from lightkv.core.cost.counting import ViewSize, count_savings, prompt_layout
from lightkv.core.cost.flops import DecoderShape
from lightkv.core.run.engine import Engine
from lightkv.core.stage.partitions import partition_of
from lightkv.functional import compress_stage
from lightkv.testing.cases import Chain, cases

SHAPE = DecoderShape(
    num_layers=6,
    hidden_size=8,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    intermediate_size=12,
    vocab_size=50,
)
HALVES = [{"after_layer": 2, "ratio": 0.5}, {"after_layer": 4, "ratio": 0.5}]


def ends_in_image(text=3, grid=(1, 4, 4), drafts=0):
    """A row of text, one image and as many drafts."""
    count = int(np.prod(grid))
    layout = VisionLayout.from_spans([[(text, grid)]], length=text + count + drafts)
    return layout.with_drafts(drafts)


def test_only_rows_that_end_in_vision_are_pinned():
    spans = [[(2, (1, 2, 2))], [(6, (1, 2, 2))], [], [(0, (1, 2, 2)), (4, (2, 1, 3))]]
    layout = VisionLayout.from_spans(spans, length=10, pads=[0, 3, 0, 0])
    assert layout.pinned == (False, True, False, True)
    assert VisionLayout.from_spans([[(0, (1, 2, 2))]]).pinned == (False,)
    assert VisionLayout.from_spans([[(0, (1, 2, 2))]]).with_length(4).pinned == (True,)


@given(case=cases(windowed=False), drafts=st.integers(0, 2))
def test_stages_do_not_move_the_pin(case, drafts):
    layout = case.layout()
    assert layout.pinned == tuple(shape.ends_in_image for shape in case.shapes)
    stages = [Stage.preset("tome", ratio=0.5)] * 2
    assert Chain.run(stages, case.hidden(), layout).last.layout.pinned == layout.pinned


@pytest.mark.parametrize("drafts", [0, 1, 4])
@pytest.mark.parametrize("preset", ["tome", "random", "tome-cache"])
def test_drafts_are_no_part_of_the_prompt(preset, drafts):
    """Guesses fed behind a prompt that ends in its image: the token before them is the last."""
    schedule = [{"site": "cache", "ratio": 0.5}] if preset == "tome-cache" else HALVES
    engine = Engine(Pipeline.build(preset, 6, schedule=schedule), SHAPE)
    layout = VisionLayout.from_spans([[(3, (1, 4, 4))]], length=19 + drafts)
    prefill = engine.begin(layout, drafts)
    if preset == "tome-cache":
        key = torch.randn(1, 1, layout.length, 4)
        after, _ = prefill.compress_cache(0, key, key)
        assert torch.equal(after[:, :, -1 - drafts :], key[:, :, -1 - drafts :])
        return
    hidden = after = torch.randn(1, layout.length, 8)
    for layer in range(6):
        after = prefill.apply(layer, after)
    assert after.shape[1] < hidden.shape[1]
    assert torch.equal(after[:, -1 - drafts :], hidden[:, -1 - drafts :])
    plain = engine.begin(layout)
    assert plain.layout.key != engine.begin(layout, 1).layout.key


class OneWindow(Partitioner):
    """Everything is one window, separators too, by current rank: as a stranger might write it."""

    name = "one-window"
    calls: ClassVar[list[Partition]] = []

    def partition(self, sample, groups, windows):
        part = Partition(np.zeros(int(groups.population.sum()), dtype=np.int64), by="rank")
        self.calls.append(part)
        return part


@pytest.mark.parametrize("later", ["whole", {"name": "whole", "scope": "sample"}, OneWindow()])
def test_whatever_the_partitioner_says(later):
    layout, hidden = ends_in_image(), torch.randn(1, 19, 8)
    first = Stage.preset("tome", ratio=0.5, partitioner=OneWindow())
    one = compress_stage(hidden, layout, first)
    assert one.layout.vision_counts == (1 + 8,)
    two = compress_stage(
        one.hidden_states, one.layout, Stage.preset("tome", ratio=0.5, partitioner=later)
    )
    assert two.layout.vision_counts == (1 + 4,)
    assert torch.equal(two.hidden_states[:, -1], hidden[:, -1])
    assert all((part.label == 0).all() for part in OneWindow.calls), "its own labels were changed"


def test_a_window_that_only_holds_the_last_token_has_nothing_to_do():
    for grid, pad in (((1, 1, 1), 0), ((1, 1, 1), 3)):
        layout = VisionLayout.from_spans([[(pad, grid)]], length=pad + 1, pads=[pad])
        plan = Stage.preset("lightkv", ratio=0.5, windows=1).plan(layout)
        assert not plan.removes
        assert plan.counts_after == (1,)
    label = partition_of(ends_in_image(0, (1, 1, 2)), 0, OneWindow(), None).label
    assert label.tolist() == [0, PROTECTED]


@pytest.mark.parametrize(("text", "counts"), [(1, [576, 288, 144, 72]), (0, [576, 289, 145, 73])])
def test_counts_without_text_behind_the_image(text, counts):
    """Published arithmetic with text behind the image; without it the last token is one of 576."""
    schedule = [{"after_layer": n, "ratio": 0.5} for n in (1, 2, 3)]
    pipeline = Pipeline.build("tome", 6, schedule=schedule)
    layout = prompt_layout([ViewSize((1, 24, 24))], text)
    wanted = (*counts, counts[-1], counts[-1])
    assert count_savings(pipeline, SHAPE, layout).compressed.vision_tokens == wanted
    engine = Engine(pipeline, SHAPE)
    prefill, hidden = engine.begin(layout), torch.empty(1, layout.length, 8, device="meta")
    for layer in range(6):
        hidden = prefill.apply(layer, hidden)
    report = engine.finish(prefill, cached=True)
    assert report.samples[0].vision_tokens == wanted
    assert hidden.shape[1] == counts[-1] + text


def test_a_dynamic_budget_does_not_reach_the_last_token():
    """Tokens that are all alike: everything merges that may, and the last one may not."""
    layout, hidden = ends_in_image(), torch.ones(1, 19, 8)
    stage = Stage.preset("tome", ratio=0.1, matcher="adaptive-bipartite")
    result = compress_stage(hidden, layout, stage)
    assert result.layout.vision_counts == (15 - 7 + 1,)
    assert result.size[-1] == 1
