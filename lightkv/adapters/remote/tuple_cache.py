"""Caches that are tuples of (key, value), as modelling code written for transformers 4 has them.

Such a cache is a value: each pass returns a new one and leaves the old one alone, so two
continuations of one prompt may share its beginning. And tuples cannot be weakly referenced. So what
is known of a cache hangs on the key tensor of its first layer, which goes from pass to pass
untouched, and is copied before a pass continues it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from lightkv.adapters.hf.cache_checks import rows_changed_places

Past = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Per layer key and value, each `[B, Hₖᵥ, K, d]`."""


class TupleCache:
    """Stands for a tuple: what `HFAttachment` asks of a cache. It holds no tensor.

    Attributes:
        lengths: entries of each layer.
        fed: positions that made them, counted without compression.
        marks: `[B, d]` by which rows are told apart, None before the first pass: the keys of the
            prompt in layer 0, summed.
        prompt: how many entries of layer 0 these are.
    """

    def __init__(
        self,
        lengths: tuple[int, ...],
        fed: int,
        marks: torch.Tensor | None = None,
        prompt: int = 0,
    ) -> None:
        self.lengths = lengths
        self.fed = fed
        self.marks = marks
        self.prompt = prompt

    def get_seq_length(self, layer: int = 0) -> int:
        """Entries of a layer."""
        return self.lengths[layer]


class Lineage:
    """The caches that passes of one session returned, for as long as they live."""

    def __init__(self) -> None:
        self._made: Any = WeakTensorKeyDictionary()
        # Of each thread: streams of several requests take turns, a beam search goes on in its own.
        self._local = threading.local()

    def find(self, past: Past | None) -> TupleCache | None:
        """What stands for a tuple that an earlier pass returned, None for a stranger.

        A tuple whose rows were reordered has new tensors. It is taken for the last one if its
        layers have the same lengths and each row still holds the prompt that it held: beams move
        inside their prompt, and all rows of a prompt dropped the same tokens.

        Raises:
            SessionError: rows of the last tuple changed places with those of other prompts.
        """
        if past is None:
            return None
        found: TupleCache | None = self._made.get(past[0][0])
        if found is not None:
            return found
        last: TupleCache | None = getattr(self._local, "last", None)
        if last is None or last.marks is None or last.lengths != tuple_lengths(past, len(past)):
            return None
        marks = _marks(past, last.prompt)
        if marks.shape != last.marks.shape:
            return None
        if torch.equal(marks, last.marks):
            return last
        if bool((marks[:, None] == last.marks[None]).all(dim=-1).any(dim=1).all()):
            raise rows_changed_places()
        return None

    def keep(self, past: Past, fed: int, old: TupleCache | None = None) -> TupleCache:
        """Remember a tuple that a pass returned.

        Args:
            past: the tuple.
            fed: positions that made it.
            old: the tuple that it continues, None after a prefill.
        """
        lengths = tuple_lengths(past, len(past))
        if old is None or old.marks is None:
            made = TupleCache(lengths, fed, _marks(past, lengths[0]), lengths[0])
        else:
            made = TupleCache(lengths, fed, old.marks, old.prompt)
        self._made[past[0][0]] = made
        self._local.last = made
        return made


def _marks(past: Past, prompt: int) -> torch.Tensor:
    """`[B, d]` keys of the first head of layer 0, summed over the first `prompt` entries."""
    return past[0][0][:, 0, :prompt].detach().sum(dim=1)


def tuple_lengths(past: Past | None, num_layers: int) -> tuple[int, ...]:
    """Entries of each layer, zeros without a cache."""
    if past is None:
        return (0,) * num_layers
    return tuple(int(key.shape[2]) for key, *_ in past)


def returned_past(output: Any, num_layers: int) -> Past | None:
    """The cache in what a decoder returned, as a plain tuple or with names; None without one."""
    if not isinstance(output, tuple):
        return output.past_key_values  # type: ignore[no-any-return]
    # Hidden states stand in the same place where there is no cache: those are tensors.
    past = output[1] if len(output) > 1 else None
    if not isinstance(past, tuple) or not all(isinstance(entry, tuple) for entry in past):
        return None
    return past if len(past) == num_layers else None
