"""Where vision tokens are, and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightkv import View, VisionLayout
from lightkv.core.errors import LayoutError
from lightkv.core.layout import SEPARATOR, SampleLayout
from lightkv.testing import cases
from lightkv.testing.cases import grids


@given(grid=grids(), start=st.integers(0, 9))
def test_a_view_covers_every_cell_once_in_raster_order(grid, start):
    frames, rows, columns, newline = grid
    view = View.from_span(start, (frames, rows, columns), newline=newline)
    patches = view.cells[view.cells != SEPARATOR]
    assert patches.tolist() == list(range(frames * rows * columns))
    assert (view.cells == SEPARATOR).sum() == (frames * rows if newline else 0)
    assert view.positions.tolist() == list(range(start, start + view.cells.size))
    expected = [(f, r, c) for f in range(frames) for r in range(rows) for c in range(columns)]
    assert [tuple(c) for c in view.coordinates[view.cells >= 0].tolist()] == expected
    assert (view.coordinates[view.cells == SEPARATOR] == SEPARATOR).all()


@given(case=cases())
def test_masks_counts_and_indices_agree(case):
    layout = case.layout()
    vision, valid = layout.vision_mask(), layout.valid_mask()
    assert tuple(vision.sum(1).tolist()) == layout.vision_counts == layout.original_counts
    assert tuple((valid & ~vision).sum(1).tolist()) == layout.text_counts
    assert not bool((vision & ~valid).any())
    index = layout.token_index(torch.device("cpu"))
    assert torch.equal(index.flat, vision.flatten().nonzero().flatten())
    assert torch.equal(index.text, (valid & ~vision).flatten().nonzero().flatten())
    assert torch.equal(index.origin, torch.arange(index.flat.numel()))


@given(case=cases())
def test_equal_layouts_have_equal_keys_and_others_do_not(case):
    layout = case.layout()
    assert layout.key == case.layout().key
    samples = list(layout.samples)
    longer = VisionLayout(layout.length + 1, tuple(samples))
    assert longer.key != layout.key
    if sum(layout.vision_counts):
        row = int(np.argmax(layout.vision_counts))
        views = samples[row].views
        first = View(views[0].grid, views[0].positions, views[0].cells, image=7)
        samples[row] = SampleLayout((first, *views[1:]), samples[row].pad)
        assert VisionLayout(layout.length, tuple(samples)).key != layout.key


def test_length_is_adopted_once():
    layout = VisionLayout.from_spans([[(5, (1, 24, 24))]])
    fitted = layout.with_length(600)
    assert fitted.length == 600
    assert fitted.with_length(600) is fitted
    with pytest.raises(LayoutError, match="600 positions but the tensor has 601"):
        fitted.with_length(601)


def test_rows_are_repeated_for_beams():
    layout = VisionLayout.from_spans([[(2, (1, 2, 2))], []], length=9)
    wide = layout.for_rows([0] * 6)
    assert wide.vision_counts == (4, 4, 4, 0, 0, 0)
    assert layout.for_rows([0, 0]) is layout
    assert layout.for_rows([1, 3]).pads == (1, 3)
    for pads in ([0] * 3, [0]):
        with pytest.raises(LayoutError, match="2 samples"):
            layout.for_rows(pads)


def test_two_views_may_interleave():
    """Views need not be contiguous; the order of tokens is that of the sequence."""
    even = View((1, 1, 3), np.array([0, 2, 4]), np.arange(3), image=0)
    odd = View((1, 1, 3), np.array([1, 3, 5]), np.arange(3), image=1)
    sample = SampleLayout((even, odd))
    assert sample.tokens.image.tolist() == [0, 1, 0, 1, 0, 1]
    assert sample.tokens.coordinates[:, 2].tolist() == [0, 0, 1, 1, 2, 2]
