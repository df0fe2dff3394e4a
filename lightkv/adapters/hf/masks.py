"""Every mask decision: which keys the queries of a layer see, with which weights, in which format.

`LayerMasks` is asked by all who need to know: layers that compression touched, stages that read
attention, and those that read the row that the next layer would have.

Formats follow transformers: None (causal by flag), boolean `[B, 1, Q, K]` with True = attend (SDPA),
float `[B, 1, Q, K]` with 0 = attend (eager), boolean `[B, K]` (flash attention).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from lightkv.adapters.hf.cache_checks import refuse_padded_state
from lightkv.adapters.hf.cache_record import (
    CacheRecord,
    Segment,
    entry_weights,
    original_positions,
    valid_entries,
    visible_entries,
)
from lightkv.adapters.hf.contact import RECURRENT, mask_function
from lightkv.adapters.hf.forward import ForwardPass
from lightkv.core.errors import ModelError
from lightkv.core.prompt import PromptIndex
from lightkv.core.transfer import to_device

Windows = tuple[int | None, ...]
"""Sliding window, or chunk, of each layer (None where there is none); empty if no layer has any."""
FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"
"""Kinds of decoder layers whose masks are known."""

STYLES = {"sdpa": "sdpa", "eager": "eager", "flash": "flash_attention_2"}
"""Format of masks → an implementation of transformers that takes it."""


@dataclass(frozen=True, eq=False)
class Reach:
    """Who sees whom in layers that are not simply causal.

    Attributes:
        window: a query sees keys less than this many original positions before it, None for all.
        positions: `[B or 1, K]` original positions of the keys, with a window.
        blocks: `[B, ≥ Q]` number of the block of each new token, negative outside blocks; the last Q
            are the queries. Tokens of a block see one another. None if there are no blocks.
        starts: `[B, 1]` original position at which the chunks of each row begin, where the window is
            one of fixed chunks: a query sees those keys that lie in its own. None where it slides.
    """

    window: int | None = None
    positions: torch.Tensor | None = None
    blocks: torch.Tensor | None = None
    starts: torch.Tensor | None = None

    def limit(self, causal: torch.Tensor) -> torch.Tensor:
        """`[B, 1, Q, K]` from the causal mask of that shape: window AND (causal OR same block)."""
        queries, allowed = causal.shape[-2], causal
        if self.blocks is not None:
            ids = self.blocks
            own, past = ids[:, -queries:, None], causal.shape[-1] - ids.shape[1]
            same = (own == ids[:, None, :]) & (own >= 0)
            allowed = allowed | nn.functional.pad(same, (past, 0))[:, None]
        if self.window is not None and self.positions is not None:
            own = self.positions[:, -queries:, None]
            near = within(self.window, own, self.positions[:, None, :], self.starts)
            allowed = allowed & near[:, None]
        return allowed


def within(
    window: int, own: torch.Tensor, keys: torch.Tensor, starts: torch.Tensor | None
) -> torch.Tensor:
    """`[B, Q, K]` whether a query of a position sees a key of another, order left out.

    Args:
        window: tokens in a window, or in a chunk.
        own: `[B or 1, Q, 1]` original positions of the queries.
        keys: `[B or 1, 1, K]` those of the keys.
        starts: `[B, 1]` where the chunks of each row begin; None for a window that slides.
    """
    if starts is None:
        return own - keys < window
    first = starts[:, :, None]
    # Padding before the first chunk would belong to one of its own; nobody sees it.
    return (own - first).div(window, rounding_mode="floor") == (keys - first).div(
        window, rounding_mode="floor"
    )


class LayerMasks:
    """Who sees whom in the layers of one decoder.

    Args:
        windows: sliding window, or chunk, of each layer.
        causal: whether a token never attends to later ones.
        recurrent: layers that keep a state, and take which of their new positions are real.
        chunked: layers whose window is one of fixed chunks.
        blocked: layers in which the tokens of an image see one another; None: all, if they do.
    """

    def __init__(
        self,
        windows: Windows,
        *,
        causal: bool,
        recurrent: frozenset[int] = frozenset(),
        chunked: frozenset[int] = frozenset(),
        blocked: frozenset[int] | None = None,
    ) -> None:
        self._windows, self._recurrent = windows, recurrent
        self._chunked, self._blocked = chunked, blocked
        self._simply_causal = causal and not windows

    def of_layer(
        self,
        forward: ForwardPass,
        layer: int,
        hidden: torch.Tensor,
        given: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """The mask of a layer that compression touched, with the sizes of merged tokens in it.

        Args:
            forward: the pass.
            layer: its number.
            hidden: `[B, N′, D]` what it will see.
            given: the mask that transformers made for the uncompressed layer.
        """
        if layer in self._recurrent:
            return self._of_state(forward, hidden.device, given)
        mask = self._unweighted(forward, layer, hidden, given)
        weights = self.key_weights(forward, layer, hidden.device)
        if weights is None:
            return mask
        queries, dtype = hidden.shape[1], hidden.dtype
        make = partial(weigh_keys, mask, weights, queries, dtype)
        return forward.once(("weighed", queries), make, mask, weights)

    def _unweighted(
        self,
        forward: ForwardPass,
        layer: int,
        hidden: torch.Tensor,
        given: torch.Tensor | None,
    ) -> torch.Tensor | None:
        prefill, record, device = forward.prefill, forward.record, hidden.device
        # Layers that read the entries of others may be called on the last positions only.
        new, entries = hidden.shape[1], forward.new_entries
        segments: tuple[Segment, ...]
        if prefill is not None and not forward.visible:
            layout = prefill.layout
            if given is not None:
                assert prefill.kept is not None
                kept = prefill.kept
                valid = layout.valid_mask(device) if any(layout.pads) else None
                rows, key = new == entries, ("mask", len(prefill.stages_done), device)
                make = partial(gather_mask, given.to(device), kept.to(device), valid, rows=rows)
                return forward.once(key, make, given)
            # Without a mask the whole prompt lies inside the window, if there is one.
            segments, window = (Segment(layout.pads, entries),), None
        else:
            assert record is not None
            segments, window = tuple(record.segments[layer]), self._window(record, layer)

        def build() -> torch.Tensor | None:
            keys = forward.visible + entries
            valid = valid_entries(segments, device)
            return build_mask(
                None if valid is None else valid[:, -keys:],
                forward.batch,
                new,
                keys,
                style=forward.mask_style,
                dtype=hidden.dtype,
                device=device,
                reach=self._reach(forward, layer, segments, keys, window, device),
            )

        told = (window, self._starts(record, layer), self._has_blocks(layer))
        built = ("built", segments, forward.visible, new, told, device)
        return forward.once(built, build)

    @staticmethod
    def _of_state(
        forward: ForwardPass, device: torch.device, given: torch.Tensor | None
    ) -> torch.Tensor | None:
        """`[B, N′]` which new positions a recurrent layer may take in, None where all are real.

        Padding on the left of an empty state leaves no trace in it.
        """
        prefill = forward.prefill
        assert prefill is not None
        assert prefill.kept is not None
        kept, layout = prefill.kept, prefill.layout
        padded = any(layout.pads)
        if padded and forward.visible:
            refuse_padded_state()

        def make() -> torch.Tensor | None:
            valid = layout.valid_mask(device) if padded else None
            if given is None:
                return valid
            return gather_mask(given.to(device), kept.to(device), valid)

        return forward.once(("state", len(prefill.stages_done), device), make, given)

    def _window(self, record: CacheRecord, layer: int) -> int | None:
        """The window of a layer, None also while everything that was fed lies inside it."""
        window = self._windows[layer] if self._windows else None
        return None if window is None or record.fed(layer) <= window else window

    def _starts(self, record: CacheRecord | None, layer: int) -> tuple[int, ...] | None:
        """Where the chunks of each row begin in a layer that has some, else None."""
        return None if record is None or layer not in self._chunked else record.starts

    def _has_blocks(self, layer: int) -> bool:
        """Whether the tokens of an image see one another in a layer."""
        return self._blocked is None or layer in self._blocked

    def _reach(
        self,
        forward: ForwardPass,
        layer: int,
        segments: tuple[Segment, ...],
        keys: int,
        window: int | None,
        device: torch.device,
    ) -> Reach | None:
        blocks = forward.blocks if forward.visible and self._has_blocks(layer) else None
        if window is None and blocks is None:
            return None
        if blocks is not None and forward.prefill is not None and forward.prefill.kept is not None:
            blocks = blocks.to(device).gather(1, forward.prefill.kept.to(device))
        positions = None
        if window is not None:
            positions = original_positions(segments, device)[:, -keys:]
        if blocks is not None:
            blocks = blocks.to(device)
        starts = _column(self._starts(forward.record, layer), device)
        return Reach(window, positions, blocks, starts)

    def key_weights(
        self, forward: ForwardPass, layer: int, device: torch.device
    ) -> torch.Tensor | None:
        """`[B, K]` what is added to the logits of each key of a layer, None if nothing is."""
        if forward.visible and forward.record is not None:
            segments = tuple(forward.record.segments[layer])
        elif forward.prefill is not None:
            weight = forward.prefill.log_sizes()
            return None if weight is None else weight.to(device)
        else:
            return None

        def make() -> torch.Tensor | None:
            weights = entry_weights(segments, forward.batch, device)
            keys = forward.visible + forward.new_entries
            return None if weights is None else weights[:, -keys:]

        key = ("weights", segments, forward.visible, device)
        return forward.once(key, make)

    def cached_valid(
        self, forward: ForwardPass, layer: int, device: torch.device
    ) -> torch.Tensor | None:
        """`[B, visible]` false at padding of the cached entries, None if there is none."""
        valid = None if forward.record is None else forward.record.valid(layer, device)
        if valid is None or not forward.visible:
            return None
        past = valid.shape[1] - forward.new_entries
        return valid[:, past - forward.visible : past]

    def beyond_causal(self, mask: torch.Tensor | None) -> torch.Tensor | None:
        """The mask of an attention call where it says more than order and padding, else None."""
        return None if self._simply_causal else mask

    def last_row(
        self,
        forward: ForwardPass,
        layer: int,
        given: torch.Tensor | None,
        prompt: PromptIndex,
        drafts: int,
    ) -> torch.Tensor:
        """`[B, K]` what the last position will see in a layer that has not run yet.

        Args:
            forward: the pass, whose record does not hold this layer's new entries yet.
            layer: its number.
            given: the layer's uncompressed mask, looked at where the cache is empty.
            prompt: prompt positions.
            drafts: positions at the end that are guesses; the last one is the one before them.
        """
        real = prompt.query_valid
        kept = None if forward.prefill is None else forward.prefill.kept
        past = cached_keys(forward, layer)
        if not past:
            return real & _last_row_of(given, kept, real, drafts)
        record = forward.record
        assert record is not None
        batch, device = real.shape[0], real.device
        cached = record.valid(layer, device)
        if cached is None:
            cached = torch.ones(batch, past, dtype=torch.bool, device=device)
        allowed = torch.cat([cached[:, -past:], real], dim=1)
        window = self._windows[layer] if self._windows else None
        if window is None:
            return allowed
        fed, segments = record.fed(layer), record.segments[layer]
        old = original_positions(segments, device)[:, -past:].expand(batch, -1)
        new = torch.arange(real.shape[1], device=device).expand(batch, -1) if kept is None else kept
        places = torch.cat([old, fed + new.to(device)], dim=1)
        last = fed + forward.queries - 1 - drafts
        own = torch.full((1, 1, 1), last, dtype=torch.long, device=device)
        starts = _column(self._starts(record, layer), device)
        return allowed & within(window, own, places[:, None], starts)[:, 0]


def _column(values: tuple[int, ...] | None, device: torch.device) -> torch.Tensor | None:
    return None if values is None else to_device(values, device)[:, None]


def cached_keys(forward: ForwardPass, layer: int) -> int:
    """Cached entries that the attention of a layer will see, before the layer runs."""
    if forward.record is None or not forward.record.length(layer):
        return 0
    return visible_entries(forward.cache, layer, forward.record.length(layer))


def _last_row_of(
    mask: torch.Tensor | None, kept: torch.Tensor | None, real: torch.Tensor, drafts: int
) -> torch.Tensor:
    """`[B, N]` the last row of the uncompressed mask `[B or 1, 1, M, M]` at the kept columns."""
    if mask is None or mask.dim() != 4:
        # Without one the prompt is causal and inside the window; flash attention's has only padding.
        return torch.ones_like(real)
    row = mask[:, 0, -1 - drafts].to(real.device).expand(real.shape[0], -1)
    allowed = row if row.dtype == torch.bool else row > torch.finfo(row.dtype).min / 2
    return allowed if kept is None else allowed.gather(1, kept.to(real.device))


def continued_padding(
    record: CacheRecord, given: torch.Tensor | None, batch: int, queries: int, device: torch.device
) -> torch.Tensor:
    """`[B, K + Q]` which entries of layer 0 and new positions are real.

    For a decoder that makes the masks of its layers from it and is called on a compressed cache.

    Args:
        record: of the cache.
        given: the caller's mask, sized by another layer; its last Q columns are the new positions.
        batch, queries: B and Q.
        device: of the mask.
    """
    old = record.valid(record.first, device)
    if old is None:
        old = torch.ones(batch, record.length(record.first), dtype=torch.bool, device=device)
    if given is None:
        return torch.cat([old, old.new_ones(batch, queries)], dim=1)
    new = given[:, -queries:].to(old.dtype)
    return torch.cat([old.expand(new.shape[0], -1), new], dim=1).to(given.dtype)


def gather_mask(
    mask: torch.Tensor, kept: torch.Tensor, valid: torch.Tensor | None, *, rows: bool = True
) -> torch.Tensor:
    """Rows and columns of a prefill mask that survive a stage.

    Args:
        mask: `[B or 1, 1, N, N]`, or `[B or 1, N]` for flash attention.
        kept: `[B, N′]` old position of each new one.
        valid: `[B, N′]` false at new padding, None if there is none.
        rows: whether the mask has a row for each position. Otherwise it is that of the last ones, which
            all survive.
    """
    batch = kept.shape[0]
    if mask.dim() == 2:
        out = mask.expand(batch, -1).gather(1, kept)
        return out if valid is None else out & valid.to(out.dtype)
    heads, columns = mask.shape[1], mask.shape[-1]
    # A mask of one row is that of all of them.
    out = mask.expand(batch, -1, columns if rows and mask.shape[2] == 1 else -1, -1)
    if rows:
        out = out.gather(2, kept[:, None, :, None].expand(-1, heads, -1, columns))
    out = out.gather(3, kept[:, None, None, :].expand(-1, heads, out.shape[2], -1))
    if valid is None:
        return out
    if out.dtype == torch.bool:
        out = out & valid[:, None, None, :]
        return _self_attending_padding(out, valid) if rows else out
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


def check_style(implementation: str | None, windows: Windows, *, causal: bool) -> None:
    """Refuse an attention implementation whose masks cannot say what compressed layers may attend to.

    Raises:
        ModelError: masks in a format that is not known, or too narrow for windows and blocks.
    """
    if mask_style(implementation) != "flash" or (causal and not windows):
        return
    raise ModelError(
        "this model's layers are not simply causal, and only the masks of eager and SDPA "
        "attention can tell a compressed layer what it may attend to",
        field="attn_implementation",
        value=implementation,
        remedy="model.set_attn_implementation('sdpa') (or 'eager')",
    )


def check_weights(implementation: str | None, *, makes_masks: bool) -> None:
    """Refuse proportional attention where weights of keys cannot reach the attention.

    Args:
        implementation: of the attention.
        makes_masks: whether the decoder makes the masks of its layers itself.

    Raises:
        ModelError: with what to do instead.
    """
    if makes_masks:
        raise ModelError(
            "sizes of merged tokens are added to the masks that transformers hands to its own "
            "attention, and this code makes its own",
            field="proportional",
            value=True,
            remedy="leave proportional out, or use the transformers-native class of the model",
        )
    if implementation not in (None, "eager", "sdpa"):
        raise ModelError(
            "log(size) of merged tokens is added to attention logits, and this attention takes no "
            "additive mask; only eager and SDPA do",
            field="attn_implementation",
            value=implementation,
            remedy="model.set_attn_implementation('sdpa') (or 'eager'), or leave proportional out",
        )


def sliding_windows(config: Any, num_layers: int) -> Windows:
    """Window or chunk of each layer of a text config, None where it attends to all; () if all do."""
    slides = getattr(config, "use_sliding_window", True) is not False
    sizes = {
        SLIDING: getattr(config, "sliding_window", None) if slides else None,
        CHUNKED: getattr(config, "attention_chunk_size", None),
    }
    windows = tuple(sizes.get(kind) for kind in _kinds(config, num_layers))
    return windows if any(windows) else ()


def chunked_layers(config: Any, num_layers: int) -> frozenset[int]:
    """Layers of a text config whose window is one of fixed chunks."""
    kinds = enumerate(_kinds(config, num_layers))
    return frozenset(layer for layer, kind in kinds if kind == CHUNKED)


def _kinds(config: Any, num_layers: int) -> Sequence[str]:
    told = getattr(config, "layer_types", None)
    if told:
        return list(told)
    # As transformers reads them: a window comes before a chunk.
    window = getattr(config, "sliding_window", None)
    chunk = getattr(config, "attention_chunk_size", None)
    return [CHUNKED if window is None and chunk is not None else SLIDING] * num_layers


def shared_entries(config: Any) -> dict[int, int]:
    """Layer of a text config that keeps no entries → the earlier one whose entries it reads.

    The last layers read those of the last of their kind before them.
    """
    shared = getattr(config, "num_kv_shared_layers", None) or 0
    kinds = list(getattr(config, "layer_types", None) or ())
    first = len(kinds) - shared
    own = {kind: layer for layer, kind in enumerate(kinds[:first])}
    return {layer: own[kind] for layer, kind in enumerate(kinds) if layer >= first and kind in own}


def recurrent_layers(config: Any) -> frozenset[int]:
    """Layers of a text config that keep a state of constant size instead of keys and values."""
    kinds = getattr(config, "layer_types", None) or ()
    return frozenset(layer for layer, kind in enumerate(kinds) if kind in RECURRENT)


def image_blocks(token_types: torch.Tensor | None) -> torch.Tensor | None:
    """`[B, N]` number of the image of each token, −1 outside; for images that see all of themselves.

    Args:
        token_types: `[B, N]`, 1 at images; two images have text between them. None: there are none.
    """
    if token_types is None:
        return None
    image = token_types == 1
    first = image.clone()
    first[:, 1:] &= ~image[:, :-1]
    return torch.where(image, first.cumsum(1), -1)
