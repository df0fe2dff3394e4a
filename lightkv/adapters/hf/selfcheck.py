"""What the first passes of a session prove about transformers and the model.

A name that changes between releases turns a feature off instead of failing. So the first passes of each
kind compare what was seen with what must follow from the plan and the record: every layer was hooked,
in order; a cache was given, and every layer of it grew by what the record says; the mask that a
layer gets is as large as the entries that it will see; an attention call that was tapped was seen. Later
passes cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lightkv.adapters.hf import contact
from lightkv.adapters.hf.forward import ForwardPass
from lightkv.adapters.hf.masks import Windows

PASSES = 2
"""Passes of each kind (a prefill that compresses, one that does not, a decode step) that are checked."""


class SelfCheck:
    """Checks the first passes of one session.

    Args:
        num_layers: of the decoder.
        windows: as the adapter read them, a window for each layer or nothing.
        takes_arguments: whether layers get masks and rotary tables as transformers makes them.
        recurrent: layers that keep a state; they take masks of their new positions, and no tables.
    """

    def __init__(
        self,
        num_layers: int,
        windows: Windows,
        *,
        takes_arguments: bool,
        recurrent: frozenset[int] = frozenset(),
    ) -> None:
        self._num_layers, self._recurrent = num_layers, recurrent
        self._windows = windows
        self._takes_arguments = takes_arguments
        self._left: dict[str, int] = {}
        self._forward: ForwardPass | None = None
        self._kind = ""
        self._layers: list[int] = []

    @property
    def running(self) -> bool:
        """Whether the pass that runs is checked."""
        return self._forward is not None

    def begin(self, forward: ForwardPass, kind: str) -> None:
        """A pass begins; `kind` tells passes apart that go through other code."""
        self.stop()
        if self._left.setdefault(kind, PASSES):
            self._forward, self._kind = forward, kind

    def layer(self, index: int, hidden_states: torch.Tensor) -> None:
        """Layer `index` is called on `hidden_states` `[B, N, D]`.

        Raises:
            CompatibilityError: layers were left out, or their input is of another length.
        """
        forward = self._forward
        if forward is None:
            return
        if index != len(self._layers):
            raise contact.unexpected(
                f"decoder layer {index} was called after {len(self._layers)} others",
                field="layers",
                value=index,
            )
        self._layers.append(index)
        expected, called = forward.new_entries, hidden_states.shape[1]
        if called != expected and not (index in forward.sources and called < expected):
            raise contact.unexpected(
                f"decoder layer {index} was called on {hidden_states.shape[1]} positions, not on the "
                f"{expected} that the layer before it gave",
                field="hidden_states",
                value=tuple(hidden_states.shape),
            )

    def arguments(self, index: int, new: int, given: dict[str, Any]) -> None:
        """Layer `index` gets these arguments, mask and rotary tables among them, for `new` positions.

        Raises:
            CompatibilityError: they are of another size than what the layer sees.
        """
        forward = self._forward
        if forward is None or not self._takes_arguments:
            return
        mask = contact.layer_argument(given, "attention_mask")
        tables = contact.layer_argument(given, "position_embeddings")
        keys = new if index in self._recurrent else forward.visible + forward.new_entries
        if isinstance(mask, torch.Tensor):
            # A mask of one row is that of all of them (SDPA broadcasts it).
            wanted = [keys] if mask.dim() != 4 else [1 if mask.shape[-2] == 1 else new, keys]
            if list(mask.shape[-len(wanted) :]) != wanted:
                raise contact.unexpected(
                    f"the mask of layer {index} is {tuple(mask.shape)}, but its {new} positions see "
                    f"{keys} entries",
                    field="attention_mask",
                    value=tuple(mask.shape),
                )
        if index not in self._recurrent:
            self._check_tables(index, tables, new)

    @staticmethod
    def _check_tables(index: int, tables: Any, new: int) -> None:
        if isinstance(tables, Mapping):
            tables = [table for kind in tables.values() for table in kind]
        for table in [tables] if isinstance(tables, torch.Tensor) else tables or ():
            if isinstance(table, torch.Tensor) and table.dim() > 1 and table.shape[-2] != new:
                raise contact.unexpected(
                    f"the rotary tables of layer {index} are {tuple(table.shape)}, but it is called "
                    f"on {new} positions",
                    field="position_embeddings",
                    value=tuple(table.shape),
                )

    def end(self, output: Any, lengths: Sequence[int | None] | None) -> None:
        """The decoder returned `output`; the layers of the cache hold `lengths` entries now.

        None stands for a layer that has no entries.

        Raises:
            CompatibilityError: hooks did not run, or the cache holds other entries than the record.
        """
        forward, seen = self._forward, len(self._layers)
        self.stop()
        if forward is None:
            return
        # A pass that failed proved nothing and is not counted.
        self._left[self._kind] -= 1
        if seen != self._num_layers:
            raise contact.unexpected(
                f"{seen} of {self._num_layers} decoder layers called their hooks",
                field="layers",
                value=seen,
            )
        self._check_cache(forward, contact.returned_cache(output), lengths)

    def stop(self) -> None:
        """The pass is over, however it ended."""
        self._layers, self._forward = [], None

    def _check_cache(
        self, forward: ForwardPass, returned: Any, lengths: Sequence[int | None] | None
    ) -> None:
        cache, record = forward.cache, forward.record
        if returned is not None and returned is not cache:
            raise contact.unexpected(
                "the decoder filled a cache that its layers were not given under a known name"
                if cache is None
                else "the decoder returned another cache than its layers were given",
                field=contact.CACHE_NAMES[0],
            )
        if cache is None or record is None or lengths is None:
            return
        # Again: the layers of a dynamic cache come to be when they are filled.
        contact.check_cache(cache)
        for index, held in enumerate(lengths):
            known = record.length(index)
            if held is not None and held != known:
                raise contact.unexpected(
                    f"layer {index} of the cache holds {held} entries after a pass that should have "
                    f"left {known}",
                    field="get_seq_length",
                    value=held,
                )
        for index, layer in enumerate(contact.cache_layers(cache)):
            if contact.tells_length(layer) == (index in record.lengthless):
                raise contact.unexpected(
                    f"layer {index} of the cache is a {type(layer).__name__}, which does not fit what "
                    "the config says of that layer",
                    field="layer_types",
                    value=type(layer).__name__,
                )
            if contact.slides(layer) and not (self._windows and self._windows[index]):
                raise contact.unexpected(
                    f"layer {index} of the cache slides, but the config gives that layer no window",
                    field="sliding_window",
                )
