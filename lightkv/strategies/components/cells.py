"""Windows whose matcher knows the cell of each token: who is next to whom in the picture."""

from __future__ import annotations

import numpy as np
import torch

from lightkv.core.contracts import (
    MOST_WINDOWS,
    PROTECTED,
    Partition,
    Partitioner,
    WindowSpec,
)
from lightkv.core.layout import Groups, SampleLayout
from lightkv.strategies.components.windows import one_band

ROW = MOST_WINDOWS + 1
"""Labels from a cell to the one below it: more than any grid has columns."""


class Cells(Partitioner):
    """One window over each view; the inner window of a token is its own cell.

    Labels are row · `ROW` + column, and one row lies empty between frames, so `neighbours` finds who
    is next to whom, in a grid with gaps too. Separators (newlines) stay.
    """

    name = "cells"

    def partition(self, sample: SampleLayout, groups: Groups, windows: WindowSpec) -> Partition:
        tokens = sample.tokens
        frame, row, column = tokens.coordinates.T
        rows = np.array([view.grid[1] for view in sample.views], dtype=np.int64)
        below = rows[tokens.view] + 1 if rows.size else np.zeros_like(row)
        inner = (frame * below + row) * ROW + column
        label = np.where(tokens.separator, PROTECTED, tokens.view)
        bands = tuple(one_band(view) for view in sample.views)
        return Partition(label, bands=bands, inner=np.where(tokens.separator, 0, inner))


def neighbours(cell: torch.Tensor) -> torch.Tensor:
    """`[G, n, 4]` places of the tokens left of, right of, above and below each; −1 where there is none.

    Args:
        cell: `[G, n]` labels of `Cells`, ascending.
    """
    cell = cell.contiguous()
    found = []
    for step in (-1, 1, -ROW, ROW):
        wanted = cell + step
        place = torch.searchsorted(cell, wanted).clamp(max=max(0, cell.shape[1] - 1))
        there = cell.gather(1, place) == wanted
        found.append(torch.where(there, place, -1))
    return torch.stack(found, dim=-1)
