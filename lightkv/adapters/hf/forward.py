"""One pass through the decoder, and the attention mask of each of its layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from lightkv.adapters.hf.cache_record import (
    CacheRecord,
    Segment,
    entry_weights,
    original_positions,
    valid_entries,
    visible_entries,
)
from lightkv.adapters.hf.masks import Reach, build_mask, gather_mask, weigh_keys
from lightkv.core.layout import VisionLayout
from lightkv.core.run.prefill import Prefill
from lightkv.core.stage.cache_entries import CachedLayer
from lightkv.core.transfer import to_device

Kwargs = dict[str, Any]
Windows = tuple[int | None, ...]
"""Sliding window of each layer (None where there is none); empty if no layer has any."""


def moved_by(shift: tuple[int, ...], device: torch.device) -> torch.Tensor | int:
    """`[1, B, 1]` of a shift for each row, 0 if there is none."""
    return to_device(shift, device)[None, :, None] if any(shift) else 0


def row_spans(positions: torch.Tensor, pads: tuple[int, ...]) -> tuple[int, ...]:
    """How far `[A, B, N]` positions go on in each row, from its first token to its next.

    With several axes a picture takes up as many as its longest side, not as it has tokens. Waits for
    the device, once in a prefill.
    """
    rows = positions.amax(0).tolist()
    return tuple(int(max(row[p:]) - row[p]) + 1 for row, p in zip(rows, pads, strict=True))


def text_after_images(layout: VisionLayout) -> int:
    """Positions at the end of every row that stand after its images."""
    ends = [int(s.positions.max()) + 1 for s in layout.samples if s.positions.size]
    return layout.length - max(ends, default=0)


@dataclass
class Forward:
    """State of one pass through the decoder.

    Attributes:
        blocks: `[B, queries]` block of each new token where a pass on a filled cache attends in both
            directions inside blocks, else None.
        visible: cached entries that the current layer's attention sees.
        shifts: layer that a stage of this pass shortened → by how much tokens moved back there in
            earlier passes, of each row.
        spans: positions that each row takes up where several axes count them, else None.
    """

    batch: int
    queries: int
    pads: tuple[int, ...]
    cache: Any
    record: CacheRecord | None
    prefill: Prefill | None
    decoder_arguments: Kwargs
    windows: Windows = ()
    blocks: torch.Tensor | None = None
    visible: int = 0
    shifts: dict[int, tuple[int, ...]] = field(default_factory=dict)
    spans: tuple[int, ...] | None = None
    memo: dict[Any, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        positions = None if self.prefill is None else self.prefill.positions
        if positions is None or positions.shape[0] == 1:
            return
        assert self.prefill is not None
        if self.prefill.pipeline.positions.decode == "contiguous":
            self.spans = row_spans(positions, self.prefill.layout.pads)

    def once(self, key: Any, make: Callable[[], Any], *of: Any) -> Any:
        """`make()`, computed once for all layers that share `key`, and the objects `of`, in a pass.

        The memo holds these objects, so that no other can get the id of one while the pass lasts.
        """
        known = key, *map(id, of)
        if known not in self.memo:
            self.memo[known] = make(), of
        return self.memo[known][0]

    @property
    def compressing(self) -> bool:
        """Whether a stage of this pass has removed tokens already."""
        return self.prefill is not None and self.prefill.kept is not None

    def note_entries(self, layer: int, entries: int) -> None:
        """Put the new entries of a layer on the record, before the layer runs."""
        record, prefill = self.record, self.prefill
        if record is None:
            return
        self.visible = visible_entries(self.cache, layer, record.length(layer))
        new = Segment(self.pads if prefill is None else prefill.layout.pads, entries)
        if prefill is None or prefill.kept is None:
            record.append(layer, new)
            return
        if self.windows:
            new = new._replace(missing=self.queries - entries, origin=prefill.kept)
        new = new._replace(weight=prefill.log_sizes())
        tail = text_after_images(prefill.first_layout)
        record.append(layer, new._replace(tail=tail))
        record.compressed[layer] = True
        gone = self._moved_back(prefill.layout)
        old = self.shifts[layer] = record.removed[layer]
        record.removed[layer] = tuple(a + b for a, b in zip(old, gone, strict=True))

    def note_eviction(self, layer: int, done: CachedLayer) -> None:
        """Put on the record what a stage on the cache left of the new entries of a layer."""
        prefill, record = self.prefill, self.record
        assert prefill is not None
        assert record is not None
        before, after = done.before, done.layout
        new = Segment(
            after.pads,
            after.length,
            missing=self.queries - after.length,
            # Where text took part, nobody knows how much of what the caller may take back is left.
            tail=0 if done.whole else text_after_images(prefill.first_layout),
            weight=prefill.log_sizes(done),
        )
        already = self._moved_back(before)
        gone = [b - a for a, b in zip(already, self._moved_back(after), strict=True)]
        record.replace_last(layer, before.length, new, gone)

    def _moved_back(self, layout: VisionLayout) -> tuple[int, ...]:
        """How far what follows moves back in each row if it is to follow what is left (`contiguous`).

        Nothing moves in a row of which nothing was removed.
        """
        assert self.prefill is not None
        first = self.prefill.first_layout
        held, fed = ([one.length - pad for pad in one.pads] for one in (layout, first))
        spans = fed if self.spans is None else self.spans
        return tuple(
            0 if left == whole else span - left
            for left, whole, span in zip(held, fed, spans, strict=True)
        )

    @property
    def new_entries(self) -> int:
        """Entries that this pass adds to the layer that runs now."""
        return self._new(0)

    def cached_valid(self, layer: int, device: torch.device) -> torch.Tensor | None:
        """`[B, visible]` false at padding of the cached entries, None if there is none."""
        valid = None if self.record is None else self.record.valid(layer, device)
        if valid is None or not self.visible:
            return None
        past = valid.shape[1] - self._new(layer)
        return valid[:, past - self.visible : past]

    def _new(self, layer: int) -> int:
        kept = None if self.prefill is None else self.prefill.kept
        return self.queries if kept is None else kept.shape[1]

    def key_weights(self, layer: int, device: torch.device) -> torch.Tensor | None:
        """`[B, K]` what is added to the logits of each key of a layer, None if nothing is."""
        if self.visible and self.record is not None:
            segments = tuple(self.record.segments[layer])
        elif self.prefill is not None:
            weight = self.prefill.log_sizes()
            return None if weight is None else weight.to(device)
        else:
            return None

        def make() -> torch.Tensor | None:
            weights = entry_weights(segments, self.batch, device)
            keys = self.visible + self._new(layer)
            return None if weights is None else weights[:, -keys:]

        return self.once(("weights", segments, self.visible, device), make)  # type: ignore[no-any-return]

    def mask(
        self, layer: int, hidden: torch.Tensor, given: torch.Tensor | None, style: str
    ) -> torch.Tensor | None:
        """The mask of a layer that compression touched, with the sizes of merged tokens in it.

        Arguments as of `plain_mask`.
        """
        mask = self.plain_mask(layer, hidden, given, style)
        weights = self.key_weights(layer, hidden.device)
        if weights is None:
            return mask
        queries, dtype = hidden.shape[1], hidden.dtype
        make = partial(weigh_keys, mask, weights, queries, dtype)
        return self.once(("weighed", queries), make, mask, weights)  # type: ignore[no-any-return]

    def plain_mask(
        self, layer: int, hidden: torch.Tensor, given: torch.Tensor | None, style: str
    ) -> torch.Tensor | None:
        """The mask of a layer that compression touched.

        Args:
            layer: its number.
            hidden: `[B, N′, D]` what it will see.
            given: the mask that transformers made for the uncompressed layer.
            style: format, see `masks.mask_style`.
        """
        prefill, record, device = self.prefill, self.record, hidden.device
        new = hidden.shape[1]
        segments: tuple[Segment, ...]
        if prefill is not None and not self.visible:
            layout = prefill.layout
            if given is not None:
                assert prefill.kept is not None
                kept = prefill.kept
                valid = layout.valid_mask(device) if any(layout.pads) else None
                key = ("mask", len(prefill.stages_done), device)
                return self.once(  # type: ignore[no-any-return]
                    key, lambda: gather_mask(given.to(device), kept.to(device), valid), given
                )
            # Without a mask the whole prompt lies inside the window, if there is one.
            segments, window = (Segment(layout.pads, new),), None
        else:
            assert record is not None
            segments, window = tuple(record.segments[layer]), self._window(layer)

        def make() -> torch.Tensor | None:
            keys = self.visible + new
            valid = valid_entries(segments, device)
            return build_mask(
                None if valid is None else valid[:, -keys:],
                self.batch,
                new,
                keys,
                style=style,
                dtype=hidden.dtype,
                device=device,
                reach=self._reach(segments, keys, window, device),
            )

        return self.once(("built", segments, self.visible, new, window, device), make)  # type: ignore[no-any-return]

    def _window(self, layer: int) -> int | None:
        """The window of a layer, None also while everything that was fed lies inside it."""
        window = self.windows[layer] if self.windows else None
        if window is None:
            return None
        assert self.record is not None
        fed = sum(s.entries + s.missing for s in self.record.segments[layer])
        return None if fed <= window else window

    def _reach(
        self, segments: tuple[Segment, ...], keys: int, window: int | None, device: torch.device
    ) -> Reach | None:
        blocks = self.blocks if self.visible else None
        if window is None and blocks is None:
            return None
        if blocks is not None and self.prefill is not None and self.prefill.kept is not None:
            blocks = blocks.to(device).gather(1, self.prefill.kept.to(device))
        positions = None
        if window is not None:
            positions = original_positions(segments, device)[:, -keys:]
        return Reach(window, positions, None if blocks is None else blocks.to(device))
