"""What lightkv remembers of a transformers cache: which entries of each layer are padding.

Compressed layers hold fewer entries than layer 0, so the masks that transformers builds (one for all
layers) do not fit them. The record of a cache lives as long as the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from lightkv.adapters.hf.contact import cache_layers, tells_length
from lightkv.adapters.hf.contact import slides as is_sliding
from lightkv.core.transfer import to_device


class Segment(NamedTuple):
    """A stretch of the cache, in order.

    Attributes:
        pads: left padding of each row.
        entries: how many there are.
        missing: original positions of the stretch that a stage removed.
        origin: `[B, entries]` original position of each entry, counted from the beginning of the
            stretch; None where they follow one another. Sliding windows are measured in them;
            where no layer slides, `missing` and `origin` are left out.
        tail: entries at the end that stand after all images, in every row; None if no stage removed
            anything.
        weight: `[B, entries]` log of how many tokens each entry stands for, added to the logits of
            its key (proportional attention); None where none is.
    """

    pads: tuple[int, ...]
    entries: int
    missing: int = 0
    origin: torch.Tensor | None = None
    tail: int | None = None
    weight: torch.Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether entries may be joined to others without losing anything."""
        return self.origin is None and self.weight is None


@dataclass
class CacheRecord:
    """Segments of each layer, and how far its positions were shifted by compression.

    Attributes:
        segments: per layer the stretches that it holds.
        compressed: per layer whether any of them went through a stage.
        removed: per layer and row how many tokens stages removed so far.
        lengthless: layers whose cache tells no length (a recurrent state). Of them the record says
            which tokens they saw, by what their passes brought and the first of the others lost.
        starts: padding of each row before its first token, before any stage: fixed chunks of
            attention are counted from there.
    """

    segments: list[list[Segment]]
    compressed: list[bool]
    removed: list[tuple[int, ...]] = field(default_factory=list)
    lengthless: frozenset[int] = frozenset()
    starts: tuple[int, ...] = ()

    @classmethod
    def empty(
        cls, num_layers: int, batch: int, lengthless: frozenset[int] = frozenset()
    ) -> CacheRecord:
        return cls(
            [[] for _ in range(num_layers)],
            [False] * num_layers,
            [(0,) * batch for _ in range(num_layers)],
            lengthless,
        )

    @property
    def first(self) -> int:
        """The layer by which transformers tells how long a cache is: the first that has a length."""
        return next(n for n in range(len(self.segments)) if n not in self.lengthless)

    def copy(self) -> CacheRecord:
        """A record that can grow on its own (a cache that is a value is continued, not changed)."""
        return CacheRecord(
            [list(segments) for segments in self.segments],
            list(self.compressed),
            list(self.removed),
            self.lengthless,
            starts=self.starts,
        )

    def length(self, layer: int) -> int:
        """Entries that the layer should hold."""
        segments = self.segments[layer]
        if len(segments) == 1:  # asked of every layer at every step
            return segments[0].entries
        return sum(segment.entries for segment in segments)

    def fed(self, layer: int) -> int:
        """Positions that made the entries of the layer, as far as stretches tell what is missing."""
        return sum(segment.entries + segment.missing for segment in self.segments[layer])

    def replace_last(self, layer: int, entries: int, new: Segment, gone: Sequence[int]) -> None:
        """The last `entries` of a layer became `new`; `gone` more tokens of each row are removed."""
        removed = tuple(a + b for a, b in zip(self.removed[layer], gone, strict=True))
        self._trim(layer, entries)
        self.append(layer, new)
        self.compressed[layer], self.removed[layer] = True, removed

    def append(self, layer: int, new: Segment) -> None:
        """Note new entries; stretches without padding or gaps are joined."""
        segments = self.segments[layer]
        whole = new.plain and not any(new.pads) and not new.missing
        if segments and whole and segments[-1].plain:
            last, tail = segments[-1], new.tail
            if tail is None and last.tail is not None:
                tail = last.tail + new.entries
            # Not by _replace: this runs in every layer at every step.
            entries = last.entries + new.entries
            segments[-1] = Segment(last.pads, entries, last.missing, tail=tail)
        else:
            segments.append(new)

    def rows_of(self, how: str, given: Any) -> torch.Tensor:
        """`[B′]` old row of each new one, where a method of the cache moves, picks or repeats rows.

        Args:
            how: the method.
            given: its argument, an index of any kind or a number of repetitions.
        """
        device = given.device if isinstance(given, torch.Tensor) else None
        rows = torch.arange(len(self.removed[0]), device=device)
        return (
            rows.repeat_interleave(int(given)) if how == "batch_repeat_interleave" else rows[given]
        )

    def move_rows(self, index: torch.Tensor) -> None:
        """Follow a cache whose row b is now what row `index[b]` was."""
        rows = None
        if not self._rows_alike():
            rows = [
                int(row) for row in index.tolist()
            ]  # waits for the device: beams of unequal prompts

        def taken(values: tuple[int, ...]) -> tuple[int, ...]:
            if rows is None:
                return values[:1] * index.shape[0]
            return tuple(values[row] for row in rows)

        def moved(values: torch.Tensor | None) -> torch.Tensor | None:
            return None if values is None else values.index_select(0, index.to(values.device))

        self.removed = [taken(removed) for removed in self.removed]
        self.starts = taken(self.starts)
        for segments in self.segments:
            segments[:] = [
                segment._replace(
                    pads=taken(segment.pads),
                    origin=moved(segment.origin),
                    weight=moved(segment.weight),
                )
                for segment in segments
            ]

    def _rows_alike(self) -> bool:
        """Whether what stands in host numbers is the same for all rows."""
        held = [segment.pads for segments in self.segments for segment in segments]
        return all(len(set(values)) <= 1 for values in (*held, *self.removed, self.starts))

    def valid(self, layer: int, device: torch.device) -> torch.Tensor | None:
        """`[B, K]` false at padding, or None if the layer holds none."""
        segments = self.segments[layer]
        return valid_entries(segments, device)

    def all_lengths(self, told: Sequence[int | None]) -> list[int]:
        """Entries of each layer; one whose cache tells none lost or won as many as the first of them.

        Args:
            told: entries that each layer holds now, None where nobody can count them.
        """
        now = told[self.first] or 0
        won = now - self.length(self.first)
        return [
            (self.length(layer) + won if now else 0) if entries is None else entries
            for layer, entries in enumerate(told)
        ]

    def follow(self, lengths: Sequence[int], pads: tuple[int, ...]) -> None:
        """Follow crops, and adopt what layers held before they were on record.

        Args:
            lengths: entries that each layer holds now.
            pads: left padding to assume for entries that were made outside any session.
        """
        for layer, (actual, segments) in enumerate(zip(lengths, self.segments, strict=True)):
            known = self.length(layer)
            if actual < known:
                self._trim(layer, known - actual)
            elif actual > known:
                if not segments:
                    self.starts = pads
                segments.append(Segment(pads, actual))

    def _trim(self, layer: int, count: int) -> None:
        segments = self.segments[layer]
        while count > 0 and segments:
            last = segments.pop()
            if last.entries > count:
                left = last.entries - count
                origin = None if last.origin is None else last.origin[:, :left]
                weight = None if last.weight is None else last.weight[:, :left]
                tail = None if last.tail is None else last.tail - count
                segments.append(
                    last._replace(entries=left, origin=origin, tail=tail, weight=weight)
                )
            count -= last.entries
        if not segments:
            self.compressed[layer] = False
            self.removed[layer] = (0,) * len(self.removed[layer])


class FedPositions:
    """What a cache with compressed entries answers to `get_seq_length`: the positions fed to it."""

    def __init__(self, layers: Sequence[Any], record: CacheRecord) -> None:
        self._layers = layers
        self._record = record

    def __call__(self, layer_idx: int = 0) -> int:
        layer_idx = layer_idx or self._record.first
        entries = self.entries(layer_idx)
        missing = sum(segment.missing for segment in self._record.segments[layer_idx])
        return entries + missing if entries else 0

    def entries(self, layer: int) -> int:
        """Entries that the layer holds."""
        held = self._layers
        return int(held[layer].get_seq_length()) if layer < len(held) else 0


def counts_fed_positions(cache: Any) -> bool:
    """Whether a cache counts what was fed, because a stage on the cache shortened layer 0."""
    return isinstance(vars(cache).get("get_seq_length"), FedPositions)


def stored_entries(cache: Any, layer: int) -> int:
    """Entries that a layer of the cache holds."""
    told = cache.get_seq_length
    return told.entries(layer) if isinstance(told, FedPositions) else int(told(layer))


def stored_lengths(cache: Any, record: CacheRecord) -> list[int | None]:
    """Entries that each layer of the cache holds, None where it tells no length."""
    return [
        None if layer in record.lengthless else stored_entries(cache, layer)
        for layer in range(len(record.segments))
    ]


def is_empty(cache: Any) -> bool:
    """Whether no layer of a cache holds an entry."""
    layers = enumerate(cache_layers(cache))
    return all(stored_entries(cache, n) == 0 for n, layer in layers if tells_length(layer))


def text_since_images(segments: Sequence[Segment]) -> int | None:
    """Entries at the end, after everything that a stage shortened; None if nothing was."""
    text = 0
    for segment in reversed(segments):
        if segment.tail is not None:
            return text + segment.tail
        text += segment.entries
    return None


def valid_entries(segments: Sequence[Segment], device: torch.device) -> torch.Tensor | None:
    """`[B, K]` false at padding of the stretches, or None if there is none."""
    if not any(any(segment.pads) for segment in segments):
        return None
    parts = []
    for segment in segments:
        first = to_device(segment.pads, device)[:, None]
        parts.append(torch.arange(segment.entries, device=device)[None] >= first)
    return torch.cat(parts, dim=1)


def entry_weights(
    segments: Sequence[Segment], batch: int, device: torch.device
) -> torch.Tensor | None:
    """`[B, K]` logs that are added to the logits of the keys, or None if there are none."""
    if all(segment.weight is None for segment in segments):
        return None
    parts = [
        torch.zeros(batch, s.entries, dtype=torch.float32, device=device)
        if s.weight is None
        else s.weight.to(device)
        for s in segments
    ]
    return torch.cat(parts, dim=1)


def original_positions(segments: Sequence[Segment], device: torch.device) -> torch.Tensor:
    """`[B or 1, K]` place of each entry in the sequence that was fed, removed tokens counted."""
    parts, start, batch = [], 0, 1
    for segment in segments:
        if segment.origin is None:
            places = torch.arange(start, start + segment.entries, device=device)[None]
        else:
            places = segment.origin.to(device) + start
            batch = places.shape[0]
        parts.append(places)
        start += segment.entries + segment.missing
    return torch.cat([part.expand(batch, -1) for part in parts], dim=1)


def visible_entries(cache: Any, layer: int, past: int) -> int:
    """How many of `past` cached entries the attention of a layer gets to see before new ones.

    Sliding cache layers hold only their last W - 1 entries, and count all.
    """
    held = cache_layers(cache)
    if layer >= len(held) or not is_sliding(held[layer]):
        return past
    entry = held[layer]
    stored = entry.keys.shape[-2] if entry.is_initialized else 0
    # While past states are recorded (assisted decoding) more is stored than attention is given.
    return int(min(stored, entry.sliding_window - 1, past))


def slides(cache: Any) -> bool:
    """Whether any layer of a cache forgets what lies outside a window."""
    return any(is_sliding(layer) for layer in cache_layers(cache))
