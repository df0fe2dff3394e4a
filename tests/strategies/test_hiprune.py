"""HiPrune against its formulas, its neighbours, and the laws of every method."""

import numpy as np
import pytest
import torch
from references_pictures import REFERENCES

from lightkv.core.errors import ConfigError
from lightkv.core.layout import SampleLayout, View
from lightkv.core.stage.stage import Stage
from lightkv.strategies.components.cells import Cells, neighbours
from lightkv.testing import StrategySuite


class TestHiPrune(StrategySuite):
    preset = "hiprune"


@pytest.mark.parametrize("name", [name for name in REFERENCES if name.startswith("hiprune")])
def test_equals_the_slow_reference(name):
    assert max(REFERENCES[name](seed) for seed in range(6)) < 1e-5


def test_neighbours_stay_in_their_row_and_frame():
    """Two frames of 2 × 3 cells with a separator behind each row; one cell is missing."""
    sample = SampleLayout((View.from_span(0, (2, 2, 3), newline=True),))
    cells = Cells().partition(sample, None, None).inner[~sample.tokens.separator]
    cells = torch.from_numpy(np.delete(cells, 1))[None]
    left, right, above, below = neighbours(cells)[0].T.tolist()
    assert left == [-1, -1, -1, 2, 3, -1, 5, 6, -1, 8, 9]
    assert right == [-1, -1, 3, 4, -1, 6, 7, -1, 9, 10, -1]
    assert above == [-1, -1, 0, -1, 1, -1, -1, -1, 5, 6, 7]
    assert below == [2, 4, -1, -1, -1, 8, 9, 10, -1, -1, -1]


@pytest.mark.parametrize("layer", [1.0, 0.0, -0.5, 2.5])
def test_a_share_of_the_depth_lies_between_0_and_1(layer):
    matcher = {"name": "anchors-buffers-registers", "layer": layer}
    with pytest.raises(ConfigError, match="share of the encoder's depth"):
        Stage.preset("hiprune", matcher=matcher)
