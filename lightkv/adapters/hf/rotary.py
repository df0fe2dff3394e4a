"""Rotary embeddings of the layers that compression touched, where the decoder makes them for all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lightkv.adapters.hf.family import Family
from lightkv.adapters.hf.forward import ForwardPass
from lightkv.core.contracts import PositionPolicy
from lightkv.core.errors import ModelError
from lightkv.core.transfer import to_device


class Rotary:
    """Makes the `position_embeddings` of one layer in one pass, once for all layers like it.

    Args:
        adapter: knows how the decoder turns positions into tables.
        decoder: owns the module that makes them.
        num_layers: of the decoder.
        policy: which positions survivors and later tokens get.
    """

    def __init__(
        self, adapter: Family, decoder: nn.Module, num_layers: int, policy: PositionPolicy
    ) -> None:
        self._adapter = adapter
        self._decoder = decoder
        self._kinds: list[str | None] = [None] * num_layers
        if not adapter.keeps_positions(policy):
            self._kinds = [adapter.rotary_kind(decoder, layer) for layer in range(num_layers)]
        self.contiguous = policy.decode == "contiguous"

    def of_layer(
        self, forward: ForwardPass, layer: int, hidden: torch.Tensor, embeddings: Any
    ) -> Any:
        """Tables of the tokens that a layer gets, the model's own where nothing changed."""
        if embeddings is None:
            return None  # a layer without rotary positions
        record, count = forward.record, hidden.shape[1]
        if forward.compressing:
            if count < forward.new_entries and forward.prefill.positions is None:  # type: ignore[union-attr]
                return embeddings  # of the last tokens, all of which are left
            return last_rows(self.kept(forward, layer, hidden, embeddings), count)
        if self.contiguous and record is not None and record.compressed[layer]:
            return last_rows(self.shifted(forward, layer, hidden, embeddings), count)
        return embeddings

    def position_ids(
        self, forward: ForwardPass, layer: int, given: torch.Tensor | None, *, needed: bool
    ) -> torch.Tensor | None:
        """Position ids of the tokens that a layer gets, for those whose attention reads them.

        Args:
            given: `[B or 1, N]` or `[A, B or 1, N]` of the model, or None.
            needed: whether the layer cannot do without.

        Raises:
            ModelError: they are needed, but flash attention would take their gaps for packed prompts.
        """
        if given is None:
            return None
        if forward.mask_style == "flash":
            if needed:
                raise gaps_in_flash_attention()
            return None  # rotary angles do not use them
        if not forward.compressing:
            record = forward.record
            moved = self.contiguous and record is not None and any(record.removed[layer])
            if not moved or record is None:
                return given
            gone, device = record.removed[layer], given.device
            return forward.once(
                ("ids", gone, device), lambda: given - to_device(gone, device)[:, None], given
            )
        kept, prefill = forward.kept, forward.prefill
        assert prefill is not None
        positions = prefill.positions
        shift = forward.shifts.get(layer, ()) if self.contiguous else ()

        def make() -> torch.Tensor:
            if positions is not None and given.dim() == 2 and positions.shape[0] == 1:
                return (positions.to(kept.device) - moved_by(shift, kept.device))[0]
            index = kept.expand(*given.shape[:-2], -1, -1)
            whole = given.to(kept.device).expand(*given.shape[:-2], kept.shape[0], -1)
            return whole.gather(-1, index)

        return forward.once(("ids", len(prefill.stages_done), shift, kept.device), make, given)

    def kept(self, forward: ForwardPass, layer: int, hidden: torch.Tensor, embeddings: Any) -> Any:
        """Tables of the survivors of a prefill: rows of the model's own, or of new positions."""
        prefill = forward.prefill
        assert prefill is not None
        assert prefill.kept is not None
        stage, kept, positions = len(prefill.stages_done), prefill.kept, prefill.positions
        if positions is not None:
            kind = self._kinds[layer]
            shift = forward.shifts.get(layer, ()) if self.contiguous else ()
            return forward.once(
                ("rotary", stage, kind, shift, hidden.device),
                lambda: self._adapter.rotary(
                    self._decoder,
                    hidden,
                    positions.to(hidden.device) - moved_by(shift, hidden.device),
                    kind,
                ),
            )
        return forward.once(
            ("gathered", stage, hidden.device),
            lambda: gather_rotary(embeddings, kept.to(hidden.device)),
            embeddings,
        )

    def shifted(
        self, forward: ForwardPass, layer: int, hidden: torch.Tensor, embeddings: Any
    ) -> Any:
        """Tables of new tokens that follow this layer's own, shorter, prompt."""
        record = forward.record
        assert record is not None
        removed, kind = record.removed[layer], self._kinds[layer]
        if not any(removed):
            return embeddings

        def make() -> Any:
            past = record.fed(record.first) - forward.queries
            given = forward.decoder_arguments.get("position_ids")
            if given is None:
                given = torch.arange(past, past + forward.queries, device=hidden.device)[None]
            positions = axis_positions(self._adapter, self._decoder, given)
            positions = positions.expand(-1, forward.batch, -1)
            positions = positions.to(hidden.device)
            shift = moved_by(removed, hidden.device)
            return self._adapter.rotary(self._decoder, hidden, positions - shift, kind)

        return forward.once(("shifted", removed, kind, hidden.device), make)


def axis_positions(adapter: Family, decoder: nn.Module, given: torch.Tensor) -> torch.Tensor:
    """`[A, B or 1, N]` rotary positions from a decoder's `position_ids`, without those of the text.

    Args:
        given: `[B or 1, N]`, `[A, B or 1, N]`, or one axis more, the first, which is used for masks.
    """
    axes = adapter.rotary_axes(decoder)
    if axes is None or given.dim() == 2:
        return adapter.rotary_positions(given)
    return given[-axes:]


def gaps_in_flash_attention() -> ModelError:
    """The error for layers that read position ids, with an attention that reads packing off them."""
    return ModelError(
        "the layers of this model read position ids, and flash attention would take the gaps between "
        "those of compressed prompts for the borders of packed ones",
        field="attn_implementation",
        value="flash_attention_2",
        remedy="model.set_attn_implementation('sdpa') (or 'eager')",
    )


def gather_rotary(embeddings: Any, kept: torch.Tensor) -> Any:
    """Rows `kept` `[B, N′]` of rotary tables, on the device of `kept`.

    Args:
        embeddings: a (complex) table `[B or 1, N, d]`, a tuple of such as (cos, sin), a dictionary of
            those by kind of layer, or None where a layer has no rotary positions.
    """
    if embeddings is None:
        return None
    if isinstance(embeddings, Mapping):
        return {kind: gather_rotary(tables, kept) for kind, tables in embeddings.items()}
    if not isinstance(embeddings, torch.Tensor):
        return tuple(gather_rotary(table, kept) for table in embeddings)
    table = embeddings.to(kept.device).expand(kept.shape[0], -1, -1)
    return table.gather(1, kept[:, :, None].expand(-1, -1, table.shape[-1]))


def last_rows(embeddings: Any, count: int) -> Any:
    """The tables of the last tokens, of a layer that is called on no others."""
    if isinstance(embeddings, torch.Tensor):
        return embeddings[:, -count:]
    return tuple(last_rows(table, count) for table in embeddings)


def moved_by(shift: tuple[int, ...], device: torch.device) -> torch.Tensor | int:
    """`[1, B, 1]` of a shift for each row, 0 if there is none."""
    return to_device(shift, device)[None, :, None] if any(shift) else 0
