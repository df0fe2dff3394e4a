"""The check of layout truth itself: what is wrong in a layout does not pass it."""

import numpy as np
import pytest
import torch

from lightkv.core.layout import SampleLayout, View
from lightkv.testing.truth import check_painted

BEFORE = torch.ones(12, 4)


def sample(transposed=False):
    """Two views of 2 × 3 cells after three tokens of text, one token between them."""
    cells = np.arange(6).reshape(2, 3)
    cells = cells.reshape(3, 2).T if transposed else cells
    first = View((1, 2, 3), np.arange(3, 9), cells.reshape(-1))
    return SampleLayout((first, View((1, 1, 2), np.array([10, 11]), np.arange(2), image=1)))


def moved_at(*positions):
    after = BEFORE.clone()
    for position, by in positions:
        after[position] += by
    return after


def test_the_painted_cell_passes():
    check_painted(BEFORE, moved_at((7, 2.0), (4, 1.0)), sample(), {0: (0, 0.75, 0.5)})


@pytest.mark.parametrize(
    ("after", "layout", "painted"),
    [
        (moved_at((7, 2.0)), sample(transposed=True), {0: (0, 0.75, 0.5)}),
        (moved_at((6, 2.0)), sample(), {0: (0, 0.75, 0.5)}),
        (moved_at((10, 2.0)), sample(), {0: (0, 0.75, 0.5)}),
        (moved_at((7, 1.0), (10, 2.0)), sample(), {0: (0, 0.75, 0.5)}),
        (moved_at((7, 1.0)), sample(), {0: (0, 0.75, 0.5), 1: (0, 0.5, 0.2)}),
    ],
    ids=["transposed", "neighbour", "nothing moved", "another view", "one of two views"],
)
def test_everything_else_does_not(after, layout, painted):
    with pytest.raises(AssertionError):
        check_painted(BEFORE, after, layout, painted)
