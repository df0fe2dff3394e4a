"""Prompts with one sentinel for each image, in whose place remote code puts a run of embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lightkv.adapters.pictures.placing import Picture, Placeholders
from lightkv.core.errors import LayoutError

SENTINEL = -200
"""What stands for an image in `input_ids`."""


def expanded(
    ids: npt.NDArray[np.int64], pictures: Sequence[Picture], length: int, *, code: str
) -> Placeholders:
    """`[B, length]` true at vision tokens, from ids `[B, N]` with a sentinel for each picture.

    Args:
        ids: with sentinels.
        pictures: their geometry, in order.
        length: of the rows with the pictures put in.
        code: whose it is, for errors.

    Raises:
        LayoutError: rows of different lengths, which the model pads on the right; or another
            number of pictures than sentinels.
    """
    remaining = iter(pictures)
    rows = []
    for number, row in enumerate(ids):
        parts = []
        for token in row:
            found = next(remaining, None) if token == SENTINEL else None
            if token == SENTINEL and found is None:
                raise LayoutError(
                    f"there are more image sentinels ({SENTINEL}) than images",
                    field="input_ids",
                    value=int((ids == SENTINEL).sum()),
                    remedy="give one image for each",
                )
            parts.append(np.full(1 if found is None else found.tokens, found is not None))
        rows.append(np.concatenate(parts))
        if rows[-1].size != length:
            raise LayoutError(
                f"row {number} has {rows[-1].size} positions after its images were put in, but the "
                f"batch has {length}: {code} pads on the right, and generation would continue after "
                "the padding",
                field="input_ids",
                remedy="run prompts one by one, or batch prompts of equal length with images of "
                "one size",
            )
    return np.stack(rows)
