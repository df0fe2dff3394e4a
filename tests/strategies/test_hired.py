"""HiRED against its formulas, its windows, and the laws of every method."""

import numpy as np
import pytest
import torch
from references_encoder import REFERENCES

from lightkv.core.layout import SampleLayout, View, VisionLayout
from lightkv.core.stage.functional import compress_stage
from lightkv.core.stage.stage import Stage
from lightkv.strategies.components.tiles import Tiles
from lightkv.testing import OrderFreeSuite, StrategySuite
from lightkv.testing.cases import SyntheticVision


class TestHiRED(OrderFreeSuite):
    preset = "hired"


class TestHiREDByCount(StrategySuite):
    preset = {
        "partitioner": {"name": "tiles", "base": "strips"},
        "scorer": "class-attention",
        "matcher": {"name": "tile-budget", "measure": "count"},
    }


@pytest.mark.parametrize("name", [name for name in REFERENCES if name.startswith("hired")])
def test_equals_the_slow_reference(name):
    assert max(REFERENCES[name](seed) for seed in range(20)) < 1e-5


def two_by_two():
    """A base view of 4 × 4 and a grid of four tiles of which 8 × 6 cells show the picture."""
    base = View.from_span(0, (1, 4, 4))
    grid = View.from_span(16, (1, 8, 6), newline=True)
    return VisionLayout(16 + 8 * 7, (SampleLayout((base, grid)),))


def test_inner_windows_are_the_tiles():
    sample = two_by_two().samples[0]
    inner = Tiles().partition(sample, None, None).inner
    # Padding was cut off left and right, so the tiles show 4 × 3 cells each.
    base = np.array([[2, 2, 4, 4]] * 2 + [[6, 6, 8, 8]] * 2)
    assert np.array_equal(inner[:16].reshape(4, 4), base)
    grid = np.array([[3] * 3 + [5] * 3] * 4 + [[7] * 3 + [9] * 3] * 4)
    assert np.array_equal(inner[16:].reshape(8, 7)[:, :6], grid)
    strips = Tiles(base="strips").partition(sample, None, None).inner[:16].reshape(4, 4)
    assert np.array_equal(strips, np.repeat([[2], [4], [6], [8]], 4, axis=1))


def test_total_is_static_and_row_ends_stay():
    layout = two_by_two()
    hidden = torch.randn(1, layout.length, 8)
    stage = Stage.preset("hired", ratio=0.75)
    vision = SyntheticVision(hidden, layout)
    result = compress_stage(hidden, layout, stage, vision=vision)
    assert result.layout.vision_counts == (8 + 64 // 4,)
    ghost = compress_stage(
        hidden.to("meta"), layout, stage, vision=SyntheticVision(hidden.to("meta"), layout)
    )
    assert ghost.layout.vision_counts == (8 + 64 // 4,)
    kept = result.layout.token_index(torch.device("cpu")).origin
    assert int((kept < 16).sum()) == 8
