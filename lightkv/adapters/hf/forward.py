"""State of one pass through the decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from lightkv.adapters.hf.cache_record import (
    CacheRecord,
    Segment,
    visible_entries,
)
from lightkv.core.layout import VisionLayout
from lightkv.core.run.prefill import Prefill
from lightkv.core.stage.cache_entries import CachedLayer

Kwargs = dict[str, Any]
T = TypeVar("T")


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
class ForwardPass:
    """State of one pass through the decoder.

    Attributes:
        mask_style: format of the masks that the layers take.
        windowed: whether any layer has a window, or counts tokens, in original positions.
        recurrent: layers that keep a state of what they saw, and no entries.
        sources: layer that keeps no entries → the earlier one whose entries it reads.
        blocks: `[B, queries]` block of each new token where a pass on a filled cache attends in both
            directions inside blocks, else None.
        visible: cached entries that the current layer's attention sees.
        seen: layer → cached entries that its attention saw.
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
    mask_style: str
    windowed: bool = False
    recurrent: frozenset[int] = frozenset()
    sources: Mapping[int, int] = field(default_factory=dict)
    blocks: torch.Tensor | None = None
    visible: int = 0
    seen: dict[int, int] = field(default_factory=dict)
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

    def once(self, key: Any, make: Callable[[], T], *of: Any) -> T:
        """`make()`, computed once for all layers that share `key`, and the objects `of`, in a pass.

        The memo holds these objects, so that no other can get the id of one while the pass lasts.
        """
        known = key, *map(id, of)
        if known not in self.memo:
            self.memo[known] = make(), of
        return self.memo[known][0]  # type: ignore[no-any-return]

    @property
    def compressing(self) -> bool:
        """Whether a stage of this pass has removed tokens already."""
        return self.prefill is not None and self.prefill.kept is not None

    @property
    def kept(self) -> torch.Tensor:
        """`[B, N′]` old position of each token that the stages of this pass left."""
        assert self.prefill is not None
        assert self.prefill.kept is not None
        return self.prefill.kept

    def touched(self, layer: int) -> bool:
        """Whether a layer sees other tokens than without compression, in this pass or in its cache."""
        if self.compressing or self.record is None or layer in self.recurrent:
            return self.compressing
        return self.record.compressed[layer]

    def note_entries(self, layer: int, entries: int) -> None:
        """Put the new entries of a layer on the record, before the layer runs."""
        record, prefill = self.record, self.prefill
        if record is None:
            return
        if not record.segments[layer]:
            record.starts = self.pads if prefill is None else prefill.first_layout.pads
        source = self.sources.get(layer)
        # What a source cached is no longer what it saw: it has its new entries already.
        self.visible = self.seen[layer] = (
            visible_entries(self.cache, layer, record.length(layer))
            if source is None
            else self.seen[source]
        )
        new = Segment(self.pads if prefill is None else prefill.layout.pads, entries)
        if prefill is None or prefill.kept is None:
            record.append(layer, new)
            return
        if self.windowed:
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
        kept = None if self.prefill is None else self.prefill.kept
        return self.queries if kept is None else kept.shape[1]
