"""AutoPrune's budget by complexity: its formulas, fixed totals, and the laws of every method."""

import pytest
import torch
from references_pictures import REFERENCES

from lightkv import Stage, VisionLayout
from lightkv.core.contracts import StageContext
from lightkv.functional import compress_stage
from lightkv.testing import StrategySuite


class TestAutoPrune(StrategySuite):
    preset = "autoprune"


@pytest.mark.parametrize("name", [name for name in REFERENCES if name.startswith("autoprune")])
def test_equals_the_slow_reference(name):
    assert max(REFERENCES[name](seed) for seed in range(6)) < 1e-5


def kept_of_each(after_layer):
    """Survivors of two pictures of 36 tokens: each word picks a token of the first."""
    spans = [[(2, (1, 6, 6)), (40, (1, 6, 6))]]
    layout = VisionLayout.from_spans(spans, length=84)
    query, key = torch.zeros(2, 1, 2, 84, 8)
    words = torch.arange(8)
    query[..., 76:, :] = 6 * torch.eye(8)
    key[..., 2 + words, words] = 6.0
    result = compress_stage(
        torch.randn(1, 84, 8, generator=torch.Generator().manual_seed(0)),
        layout,
        Stage.preset(
            "autoprune", ratio=0.5, matcher={"name": "complexity-budget", "sensitivity": 5.0}
        ),
        query=query,
        key=key,
        context=StageContext(after_layer=after_layer, num_layers=32),
    )
    origin = result.layout.token_index(torch.device("cpu")).origin
    assert result.layout.vision_counts == (36,)
    return int((origin < 36).sum()), int((origin >= 36).sum())


def test_a_sharp_picture_loses_early_and_a_diffuse_one_late():
    early, late = kept_of_each(4), kept_of_each(24)
    assert early[0] < early[1]
    assert late[0] > late[1]


def test_one_picture_keeps_the_most_attended():
    layout = VisionLayout.from_spans([[(2, (1, 5, 5))]], length=34)
    hidden = torch.randn(1, 34, 8, generator=torch.Generator().manual_seed(1))
    query, key = torch.randn(2, 1, 2, 34, 8, generator=torch.Generator().manual_seed(2))
    both = [
        compress_stage(
            hidden, layout, Stage.preset("autoprune", ratio=0.4, **more), query=query, key=key
        )
        for more in ({}, {"matcher": "top-k", "partitioner": "whole"})
    ]
    assert torch.equal(both[0].assignment.slot, both[1].assignment.slot)
