"""What is refused of a cache before a pass goes on with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lightkv.adapters.hf.cache_record import CacheRecord
from lightkv.adapters.hf.contact import cache_layers
from lightkv.core.errors import LayoutError, SessionError


def check_made_here(cache: Any, batch: int, num_layers: int, kv_heads: int, width: int) -> None:
    """Refuse a filled cache that this decoder cannot have made.

    Args:
        cache: never seen before by the session.
        batch: rows of this pass.
        num_layers: decoder layers of the model.
        kv_heads: heads of keys in each layer; fewer are there where layers are split over devices.
        width: of a head.
    """
    held = [layer for layer in cache_layers(cache) if layer.get_seq_length() > 0]
    if len(held) not in (0, num_layers):
        raise SessionError(
            f"the cache has entries in {len(held)} layers, but this decoder has {num_layers}",
            field="past_key_values",
            value=len(held),
            remedy="pass a cache that the same model filled, or none",
        )
    keys = [getattr(layer, "keys", None) for layer in held]
    check_keys([key for key in keys if key is not None], batch, kv_heads, width)


def check_keys(keys: Sequence[torch.Tensor], batch: int, kv_heads: int, width: int) -> None:
    """The same for the keys of each layer; those that are no `[B, Hₖᵥ, K, d]` are left out."""
    for key in keys:
        if key.dim() != 4 or not key.numel():
            continue
        rows, heads, _, size = key.shape
        if rows != batch or kv_heads % heads or size != width:
            raise SessionError(
                f"the cache holds {rows} rows of {heads} heads of width {size}, but this pass has "
                f"{batch} rows of {kv_heads} heads of width {width}",
                field="past_key_values",
                value=tuple(key.shape),
                remedy="pass a cache that the same model filled for the same rows, or none",
            )


def refuse_unsupported(cache: Any) -> None:
    """Raise for caches whose layers all have the same preallocated length."""
    if getattr(cache, "is_compileable", False):
        raise SessionError(
            f"{type(cache).__name__} allocates the same length in every layer, so compression "
            "would save nothing",
            field="past_key_values",
            remedy="use the default DynamicCache (leave cache_implementation unset)",
        )


def check_padding(record: CacheRecord, mask: Any, queries: int, vision: bool) -> None:
    """Refuse a later turn whose mask hides other cached entries than the turns before it did.

    Layers that were not compressed follow the caller's mask, the others the record; they must agree.

    Args:
        record: of the cache, before this pass.
        mask: `attention_mask` of the pass, looked at where it is `[B, cached + queries]`.
        queries: new positions.
        vision: whether any layer is compressed, or will be in this pass.

    Raises:
        LayoutError: with the first row that differs.
    """
    past = record.length(0)
    whole = isinstance(mask, torch.Tensor) and mask.dim() == 2 and mask.shape[1] == past + queries
    if not vision or not whole or not past or record.compressed[0]:
        return
    given = mask[:, :past].detach().cpu().bool()
    known = record.valid(0, torch.device("cpu"))
    differs = ~given if known is None else given != known
    if bool(differs.any()):
        raise LayoutError(
            "this mask hides other entries of the cache than the turns before it did, so layers would "
            "see different ones",
            field="attention_mask",
            value=f"row {int(differs.any(dim=1).long().argmax())}",
            remedy="append the mask of the new turn to the masks of the turns before it, each with its "
            "own padding on the left. What was fed to rows that ended early (generate pads them) stays "
            "visible, or begin a new cache",
        )


def refuse_other_rows(record: CacheRecord | None, batch: int) -> None:
    """Raise if a compressed cache goes on with another number of rows."""
    if record is not None and any(record.compressed):
        raise SessionError(
            f"the cache was made for {len(record.removed[0])} rows, not {batch}",
            field="past_key_values",
            remedy="expand the inputs before the prefill (num_return_sequences, num_beams)",
        )


def refuse_after_layer_0(new_turn: bool, lacks_positions: bool) -> None:
    """Raise for what a cache whose layer 0 is compressed cannot go on with."""
    if lacks_positions:
        raise SessionError(
            "layer 0 is compressed, so the model cannot tell from the cache where the next "
            "token stands",
            field="position_ids",
            remedy="pass position_ids that count the whole prompt (generate does), or use "
            "after_layer >= 1",
        )
    if new_turn:
        raise SessionError(
            "layer 0 is compressed, so transformers cannot tell which tokens of a new turn "
            "are cached already",
            field="schedule[0].after_layer",
            value=0,
            remedy="use after_layer >= 1 to continue a chat on the same cache",
        )
