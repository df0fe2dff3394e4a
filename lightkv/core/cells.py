"""Which cell of which frame each vision token shows: what methods that compare frames ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from lightkv.core.layout import SampleLayout

SEPARATOR = -1
"""Cell index of a vision position that shows no patch (a row's newline, a class token)."""


@dataclass(frozen=True)
class Cells:
    """Which cell of which frame tokens show, of a whole layout `[V₀]` or of windows `[G, n]`.

    Attributes:
        view: number of the view in the batch.
        frame: of the view, from 0. A still picture is one frame.
        place: raster number of the cell in its frame. Tokens of one view and place show the same spot
            at different times. `SEPARATOR` in `frame` and `place` of a token that shows no patch.
        columns: of the grid of the view, so that a place has a row and a column.
        frames, places: more than any `frame` and `place`, known on the host.
        views: most views that a sample has; of windows that lie in one view each 1.
    """

    view: torch.Tensor
    frame: torch.Tensor
    place: torch.Tensor
    columns: torch.Tensor
    frames: int
    places: int
    views: int

    def at(self, tokens: torch.Tensor) -> Cells:
        """The cells of the original tokens `tokens`, of any shape."""
        return self._taken(lambda each: each[tokens])

    def within(self, extent: tuple[int, int, int]) -> Cells:
        """The same with these bounds of `views`, `frames` and `places`."""
        views, frames, places = extent
        return replace(self, views=views, frames=frames, places=places)

    def among(self, some: torch.Tensor) -> Cells:
        """Those of `[G, n]` at the places `some` `[G, k]` of their windows."""
        return self._taken(lambda each: each.gather(1, some))

    def _taken(self, take: Callable[[torch.Tensor], torch.Tensor]) -> Cells:
        return replace(
            self,
            view=take(self.view),
            frame=take(self.frame),
            place=take(self.place),
            columns=take(self.columns),
        )

    @property
    def spots(self) -> torch.Tensor:
        """A number for each view and place: the same at all times."""
        return self.view * (self.places + 1) + self.place + 1

    def neighbours(self) -> torch.Tensor:
        """`[…, n, 4]` which of the n tokens show the cells left of, right of, above and below each.

        −1 where the grid ends, where the token of that cell is gone, and for separators.
        """
        shown = self.place >= 0
        # Unlike `spots`, of one frame. A separator is nobody's neighbour.
        cell = (self.view * self.frames + self.frame) * self.places + self.place
        cell = torch.where(shown, cell, SEPARATOR)
        ordered = torch.sort(cell, dim=-1, stable=True)
        column = self.place % self.columns
        found = []
        for step, inside in (
            (-1, column > 0),
            (1, column < self.columns - 1),
            (-self.columns, self.place >= self.columns),
            (self.columns, self.place < self.places - self.columns),
        ):
            at = torch.searchsorted(ordered.values, cell + step).clamp(max=cell.shape[-1] - 1)
            there = shown & inside & (ordered.values.gather(-1, at) == cell + step)
            found.append(torch.where(there, ordered.indices.gather(-1, at), -1))
        return torch.stack(found, dim=-1)


def numbers_of(sample: SampleLayout) -> npt.NDArray[np.int64]:
    """`[V₀, 3]` view in the sample, frame and place of each original token."""
    tokens = sample.tokens
    columns = np.array([view.grid[2] for view in sample.views] or [1], dtype=np.int64)
    frame, row, column = tokens.coordinates.T
    place = np.where(tokens.separator, SEPARATOR, row * columns[tokens.view] + column)
    return np.stack([tokens.view, frame, place], axis=1)


def cells_of(samples: Sequence[SampleLayout]) -> Cells:
    """The cells of the original tokens of a batch, on the host."""
    parts, views = [np.zeros((0, 3), dtype=np.int64)], 0
    for sample in samples:
        parts.append(numbers_of(sample) + np.array([views, 0, 0]))
        views += len(sample.views)
    view, frame, place = (torch.from_numpy(column.copy()) for column in np.concatenate(parts).T)
    grids = [view.grid for sample in samples for view in sample.views] or [(1, 1, 1)]
    columns = torch.tensor([columns for _, _, columns in grids], dtype=torch.long)
    return Cells(
        view,
        frame,
        place,
        columns[view],
        frames=max(frames for frames, _, _ in grids),
        places=max(rows * columns for _, rows, columns in grids),
        views=max([1, *(len(sample.views) for sample in samples)]),
    )
