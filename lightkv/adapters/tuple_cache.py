"""Caches that are tuples of (key, value), as modelling code written for transformers 4 has them.

Such a cache is a value: each pass returns a new one and leaves the old one alone, so two
continuations of one prompt may share its beginning. And tuples cannot be weakly referenced. So what
is known of a cache hangs on the key tensor of its first layer, which goes from pass to pass
untouched, and is copied before a pass continues it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from lightkv.core.errors import SessionError

Past = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Per layer key and value, each `[B, Hₖᵥ, K, d]`."""


class TupleCache:
    """Stands for a tuple: what `HFAttachment` asks of a cache. It holds no tensor.

    Attributes:
        lengths: entries of each layer.
        fed: positions that made them, counted without compression.
    """

    def __init__(self, lengths: tuple[int, ...], fed: int) -> None:
        self.lengths = lengths
        self.fed = fed

    def get_seq_length(self, layer: int = 0) -> int:
        """Entries of a layer."""
        return self.lengths[layer]


class Lineage:
    """The caches that passes of one session returned, for as long as they live."""

    def __init__(self) -> None:
        self._made: Any = WeakTensorKeyDictionary()
        self._last: TupleCache | None = None

    def find(self, past: Past | None) -> TupleCache | None:
        """What stands for a tuple that an earlier pass returned, None for a stranger.

        A tuple whose rows were reordered has new tensors. It is taken for the last one if its
        layers have the same unequal lengths: beams move inside their prompt, and all rows of a
        prompt dropped the same tokens.
        """
        if past is None:
            return None
        found: TupleCache | None = self._made.get(past[0][0])
        if found is not None:
            return found
        lengths = tuple_lengths(past, len(past))
        last = self._last
        ragged = len(set(lengths)) > 1
        return last if ragged and last is not None and last.lengths == lengths else None

    def keep(self, past: Past, fed: int) -> TupleCache:
        """Remember a tuple that a pass returned."""
        made = TupleCache(tuple_lengths(past, len(past)), fed)
        self._made[past[0][0]] = made
        self._last = made
        return made


def tuple_lengths(past: Past | None, num_layers: int) -> tuple[int, ...]:
    """Entries of each layer, zeros without a cache."""
    if past is None:
        return (0,) * num_layers
    return tuple(int(key.shape[2]) for key, *_ in past)


def checked_past(past: Any, num_layers: int) -> Past | None:
    """The cache that was passed to the decoder, if it is of the kind that this code takes.

    Raises:
        SessionError: an object instead of tuples, or another number of layers.
    """
    if past is None:
        return None
    if not isinstance(past, tuple | list):
        raise SessionError(
            "this modelling code keeps a tuple of (key, value) for each layer and cannot use a "
            "cache object",
            field="past_key_values",
            value=type(past).__name__,
            remedy="leave past_key_values out of the first call and pass on what it returns",
        )
    if len(past) != num_layers:
        raise SessionError(
            f"the decoder has {num_layers} layers",
            field="past_key_values",
            value=len(past),
            remedy="pass on what the model returned",
        )
    return past


def returned_past(output: Any, num_layers: int) -> Past | None:
    """The cache in what a decoder returned, as a plain tuple or with names; None without one."""
    if not isinstance(output, tuple):
        return output.past_key_values  # type: ignore[no-any-return]
    # Hidden states stand in the same place where there is no cache: those are tensors.
    past = output[1] if len(output) > 1 else None
    pairs = isinstance(past, tuple) and all(isinstance(entry, tuple) for entry in past)
    return past if pairs and len(past) == num_layers else None
