"""DART: laws, slow reference, published counts, pivots."""

import pytest
import torch
from references import DIFFERENCES, counts_after

from lightkv import Stage, VisionLayout
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.functional import compress_stage
from lightkv.testing import StrategySuite


class TestDART(StrategySuite):
    preset = "dart"


class TestDARTInWindows(StrategySuite):
    preset = {
        "partitioner": "windows",
        "matcher": {"name": "pivots", "vision_pivots": 2, "text_pivots": 3},
        "schedule": [{"after_layer": 1, "ratio": 0.5, "windows": 2}],
    }


class TestDARTThreshold(StrategySuite):
    preset = {"matcher": {"name": "pivots", "threshold": 0.5}}


@pytest.mark.parametrize("name", [n for n in DIFFERENCES if n.startswith("dart")])
def test_it_agrees_with_the_slow_reference(name):
    assert DIFFERENCES[name]() <= 1e-5


def test_the_published_count():
    """Called "128" by the code, which keeps 4 pivots and 8 times 16."""
    pipeline = Pipeline.build("dart", 32, retention=0.277)
    assert pipeline.schedule.after_layers == (2,)
    assert counts_after(pipeline, (24, 24)) == [132]


def stage_of(**parameters):
    return Stage.preset("dart", ratio=0.5, matcher={"name": "pivots", **parameters})


def setup(seed=0):
    torch.manual_seed(seed)
    layout = VisionLayout.from_spans([[(2, (1, 6, 6))]])
    return torch.randn(1, 45, 8), layout, torch.randn(1, 2, 45, 4)


def test_the_strongest_keys_survive():
    hidden, layout, key = setup()
    result = compress_stage(hidden, layout, stage_of(), key=key)
    strongest = key[0, :, 2:38].abs().sum(dim=(0, 2)).topk(4).indices
    assert set(strongest.tolist()) <= set(result.assignment.survivor.tolist())


def test_text_before_the_image_is_no_pivot():
    hidden, layout, key = setup()
    before = compress_stage(hidden, layout, stage_of(), key=key)
    key[0, :, :2] *= 100
    after = compress_stage(hidden, layout, stage_of(), key=key)
    assert torch.equal(before.assignment.slot, after.assignment.slot)


def test_missing_text_pivots_are_made_up_by_vision():
    """No text after the image: the same as if each vision pivot acted twice.

    The last token stays beside the half of the other 35.
    """
    torch.manual_seed(4)
    layout = VisionLayout.from_spans([[(2, (1, 6, 6))]])
    hidden, key = torch.randn(1, 38, 8), torch.randn(1, 2, 38, 4)
    result = compress_stage(hidden, layout, stage_of(), key=key)
    assert result.layout.vision_counts == (19,)
    alone = compress_stage(hidden, layout, stage_of(text_pivots=0), key=key)
    assert alone.layout.vision_counts == (19,)


@pytest.mark.parametrize("keep", [1, 2, 3, 4, 5, 11])
def test_budgets_that_do_not_divide_are_met(keep):
    hidden, layout, key = setup(keep)
    stage = Stage.preset("dart", ratio=1 - keep / 36)
    assert compress_stage(hidden, layout, stage, key=key).layout.vision_counts == (keep,)


def test_a_lower_threshold_keeps_fewer():
    hidden, layout, key = setup()

    def left(threshold):
        stage = stage_of(threshold=threshold)
        return compress_stage(hidden, layout, stage, key=key).layout.vision_counts[0]

    assert 4 == left(-1.0) < left(0.3) <= left(1.0) == 18
