"""Value-dependent places of the vision tokens of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from lightkv.core.transfer import to_device

if TYPE_CHECKING:
    from lightkv.core.layout import SampleLayout


@dataclass(frozen=True)
class TokenIndex:
    """Value-dependent places of the current vision tokens of a batch, sample after sample.

    Attributes:
        flat: `[V]` positions in the flattened batch, `sample · N + position`, ascending.
        origin: `[V]` number of the original vision token (counted over the batch) whose place
            and position each one holds.
        text: `[T]` flat positions of everything else that is not left padding, ascending.
    """

    flat: torch.Tensor
    origin: torch.Tensor
    text: torch.Tensor

    def to(self, device: torch.device) -> TokenIndex:
        tables = (self.flat, self.origin, self.text)
        return TokenIndex(*(to_device(table, device) for table in tables))


def initial_index(samples: Sequence[SampleLayout], length: int) -> TokenIndex:
    """The index before any stage, on the host: it follows from the samples, rows of `length`."""
    flat, text = [], []
    for row, sample in enumerate(samples):
        offset = row * length
        flat.append(offset + sample.positions)
        everything = np.arange(sample.pad, length, dtype=np.int64)
        text.append(offset + np.setdiff1d(everything, sample.positions, assume_unique=True))
    places = torch.from_numpy(np.concatenate(flat))
    return TokenIndex(
        flat=places,
        origin=torch.arange(places.numel()),
        text=torch.from_numpy(np.concatenate(text)),
    )
