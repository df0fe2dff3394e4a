"""Attention masks of compressed layers.

Formats follow transformers: None (causal by flag), boolean `[B, 1, Q, K]` with True = attend (SDPA),
float `[B, 1, Q, K]` with 0 = attend (eager), boolean `[B, K]` (flash attention).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from lightkv.adapters.hf.contact import mask_function
from lightkv.core.errors import ModelError

STYLES = {"sdpa": "sdpa", "eager": "eager", "flash": "flash_attention_2"}
"""Format of masks → an implementation of transformers that takes it."""


@dataclass(frozen=True, eq=False)
class Reach:
    """Who sees whom in layers that are not simply causal.

    Attributes:
        window: a query sees keys less than this many original positions before it, None for all.
        positions: `[B or 1, K]` original positions of the keys, with a window.
        blocks: `[B, Q]` number of the block of each query, negative outside blocks. Tokens of a
            block are new and see one another. None if there are no blocks.
    """

    window: int | None = None
    positions: torch.Tensor | None = None
    blocks: torch.Tensor | None = None

    def limit(self, causal: torch.Tensor) -> torch.Tensor:
        """`[B, 1, Q, K]` from the causal mask of that shape: window AND (causal OR same block)."""
        queries, allowed = causal.shape[-2], causal
        if self.blocks is not None:
            ids = self.blocks
            same = (ids[:, :, None] == ids[:, None, :]) & (ids >= 0)[:, :, None]
            past = causal.shape[-1] - queries
            allowed = allowed | nn.functional.pad(same, (past, 0))[:, None]
        if self.window is not None and self.positions is not None:
            own = self.positions[:, -queries:, None]
            near = own - self.positions[:, None, :] < self.window
            allowed = allowed & near[:, None]
        return allowed


def gather_mask(mask: torch.Tensor, kept: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """Rows and columns of a prefill mask that survive a stage.

    Args:
        mask: `[B or 1, 1, N, N]`, or `[B or 1, N]` for flash attention.
        kept: `[B, N′]` old position of each new one.
        valid: `[B, N′]` false at new padding, None if there is none.
    """
    batch, length = kept.shape
    if mask.dim() == 2:
        out = mask.expand(batch, -1).gather(1, kept)
        return out if valid is None else out & valid.to(out.dtype)
    heads, columns = mask.shape[1], mask.shape[-1]
    # A mask of one row is that of all of them.
    mask = mask.expand(batch, -1, columns if mask.shape[2] == 1 else -1, -1)
    rows = kept[:, None, :, None].expand(-1, heads, -1, columns)
    out = mask.gather(2, rows)
    out = out.gather(3, kept[:, None, None, :].expand(-1, heads, length, -1))
    if valid is None:
        return out
    if out.dtype == torch.bool:
        return _self_attending_padding(out & valid[:, None, None, :], valid)
    lowest = torch.finfo(out.dtype).min
    return out.masked_fill(~valid[:, None, None, :], lowest)


def build_mask(
    valid: torch.Tensor | None,
    batch: int,
    queries: int,
    keys: int,
    *,
    style: str,
    dtype: torch.dtype,
    device: torch.device,
    reach: Reach | None = None,
) -> torch.Tensor | None:
    """The mask of `queries` new tokens at the end of `keys` entries.

    Args:
        valid: `[B, keys]` false at padding, None if there is none.
        reach: what else than order decides who sees whom, None if nothing does.
        style: `sdpa`, `eager` or `flash` (2-D).
        dtype: of the hidden states, for float masks.
    """
    if style == "flash":
        return valid
    if reach is None and valid is None and (queries == 1 or (queries == keys and style == "sdpa")):
        return None
    places = torch.arange(keys, device=device)
    allowed = places[None] <= (places[keys - queries :, None])
    allowed = allowed[None, None].expand(batch, 1, -1, -1)
    if reach is not None:
        allowed = reach.limit(allowed)
    if valid is not None:
        allowed = allowed & valid[:, None, None, :]
        allowed = _self_attending_padding(allowed, valid[:, keys - queries :])
    if style != "eager":
        return allowed
    lowest = torch.finfo(dtype).min
    return torch.zeros(allowed.shape, dtype=dtype, device=device).masked_fill(~allowed, lowest)


def weigh_keys(
    mask: torch.Tensor | None, weights: torch.Tensor, queries: int, dtype: torch.dtype
) -> torch.Tensor:
    """The mask as additive floats, with a number for each key on top.

    Args:
        mask: `[B or 1, 1, Q, K]` boolean or float, or None for the causal mask.
        weights: `[B, K]` log of the tokens that each key stands for.
        queries: Q, the last of the K keys.
        dtype: of the hidden states.
    """
    if mask is None:
        keys = weights.shape[1]
        places = torch.arange(keys, device=weights.device)
        mask = (places[None] <= places[keys - queries :, None])[None, None]
    if mask.dtype == torch.bool:
        lowest = torch.finfo(dtype).min
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, lowest)
    return mask + weights[:, None, None, :].to(mask.dtype)


def _self_attending_padding(allowed: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Let padding rows attend to themselves, so that no softmax is over nothing.

    Args:
        allowed: `[B, 1, Q, K]`.
        valid: `[B, Q]` of the queries, which are the last Q keys.
    """
    queries, keys = allowed.shape[-2:]
    places = torch.arange(keys, device=allowed.device)
    own = places[None] == places[keys - queries :, None]
    return allowed | (own[None, None] & ~valid[:, None, :, None])


def mask_style(implementation: str | None) -> str:
    """Which format an attention implementation takes: that which transformers would give it.

    A function of the user's own has the format of the mask function registered under its name.

    Raises:
        ModelError: masks in another format (flex attention), pages, or no mask function at all.
    """
    name = implementation or "eager"
    made = mask_function(name)
    for style, like in STYLES.items():
        if name == like or (made is not None and made is mask_function(like)):
            return style
    raise ModelError(
        "compressed layers need masks of their own, and lightkv makes those of eager, SDPA and flash "
        "attention only",
        field="attn_implementation",
        value=implementation,
        remedy="model.set_attn_implementation('sdpa') (or 'eager'); for an attention function of your "
        "own register the mask function that it takes: AttentionMaskInterface.register(name, sdpa_mask)",
    )
