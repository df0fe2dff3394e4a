"""Which patch of the vision encoder each vision token of a batch shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lightkv.adapters.pictures.placing import Picture, Pictures, placed
from lightkv.core.layout import IntArray, VisionLayout

NO_PATCH = -1


@dataclass(frozen=True, eq=False)
class PatchTable:
    """Where the tokens of one kind come from.

    Attributes:
        modality: `image` or `video`.
        patches: `[V₀, m]` encoder patches of each vision token of the batch, counted over all
            images of the kind; −1 where the token shows none of them.
        inputs: `[V₀]` the same for what enters the projector.
        encoded: patches that the encoder makes of all pictures.
    """

    modality: str
    patches: IntArray
    inputs: IntArray
    encoded: int


def patch_tables(
    kinds: Sequence[Pictures], layout: VisionLayout, encoded: Mapping[str, int]
) -> list[PatchTable]:
    """For each kind, the patches of all vision tokens of `layout`, sample after sample.

    Args:
        kinds: the pictures of the pass.
        layout: their layout.
        encoded: modality → patches that the encoder really made of its pictures.
    """
    return [_table(_once(kind, encoded), layout) for kind in kinds if kind.placeholders.any()]


def _once(kind: Pictures, encoded: Mapping[str, int]) -> Pictures:
    """The kind with the pictures that were encoded, where the rows of beams repeat them."""
    total, made = sum(map(_encoded, kind.pictures)), encoded.get(kind.modality, 0)
    times = total // made if made else 1
    if times < 2 or total % made or len(kind.placeholders) % times:
        return kind
    starts = [begin for _, begin in placed(kind)]
    starts.append(len(kind.pictures))
    rows = range(0, len(kind.placeholders), times)
    own = [picture for row in rows for picture in kind.pictures[starts[row] : starts[row + 1]]]
    return Pictures(kind.modality, kind.placeholders, own)


def _table(kind: Pictures, layout: VisionLayout) -> PatchTable:
    width = max((_patches(p, 0).shape[1] for p in kind.pictures), default=1)
    shape = (*kind.placeholders.shape, width)
    patches = np.full(shape, NO_PATCH, dtype=np.int64)
    inputs = np.full(shape[:2], NO_PATCH, dtype=np.int64)
    encoded = [_encoded(picture) for picture in kind.pictures]
    first = np.concatenate([[0], np.cumsum(encoded)])
    pooled = np.concatenate([[0], np.cumsum([_cells(p) for p in kind.pictures])])
    for row, (_, begin) in enumerate(placed(kind)):
        used = np.flatnonzero(kind.placeholders[row])
        number = begin
        while used.size:
            picture = kind.pictures[number]
            here, used = used[: picture.tokens], used[picture.tokens :]
            own = _patches(picture, int(first[number]))
            patches[row, here, : own.shape[1]] = own
            inputs[row, here] = _inputs(picture, own, int(pooled[number]))
            number += 1
    rows = [(row, sample.positions) for row, sample in enumerate(layout.samples)]
    return PatchTable(
        kind.modality,
        np.concatenate([patches[row, at] for row, at in rows]),
        np.concatenate([inputs[row, at] for row, at in rows]),
        int(first[-1]),
    )


def _cells(picture: Picture) -> int:
    return sum(int((view.cells >= 0).sum()) for view in picture.views)


def _encoded(picture: Picture) -> int:
    return _cells(picture) if picture.encoded is None else picture.encoded


def _patches(picture: Picture, first: int) -> IntArray:
    """`[tokens, m]` patches of a picture whose first one has number `first`."""
    parts = []
    for view in picture.views:
        given = view.cells if view.patches is None else view.patches
        given = given.reshape(view.cells.size, -1)
        parts.append(np.where((view.cells >= 0)[:, None], given + first, NO_PATCH))
    return np.concatenate(parts).astype(np.int64)


def _inputs(picture: Picture, patches: IntArray, first: int) -> IntArray:
    """`[tokens]` projector inputs: the patches themselves, or the cells where patches are pooled."""
    if patches.shape[1] == 1:
        return patches[:, 0]
    cells = np.concatenate([view.cells for view in picture.views])
    return np.where(cells >= 0, cells + first, NO_PATCH)
