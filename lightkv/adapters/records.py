"""What lightkv remembers of a transformers cache: which entries of each layer are padding.

Compressed layers hold fewer entries than layer 0, so the masks that transformers builds (one for all
layers) do not fit them. The record of a cache lives as long as the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from lightkv.core.errors import SessionError


class Segment(NamedTuple):
    """A stretch of the cache, in order.

    Attributes:
        pads: left padding of each row.
        entries: how many there are.
        missing: original positions of the stretch that a stage removed.
        origin: `[B, entries]` original position of each entry, counted from the beginning of the
            stretch; None where they follow one another. Sliding windows are measured in them;
            where no layer slides, `missing` and `origin` are left out.
    """

    pads: tuple[int, ...]
    entries: int
    missing: int = 0
    origin: torch.Tensor | None = None


@dataclass
class CacheRecord:
    """Segments of each layer, and how far its positions were shifted by compression.

    Attributes:
        segments: per layer the stretches that it holds.
        compressed: per layer whether any of them went through a stage.
        removed: per layer and row how many tokens stages removed so far.
    """

    segments: list[list[Segment]]
    compressed: list[bool]
    removed: list[tuple[int, ...]] = field(default_factory=list)

    @classmethod
    def empty(cls, num_layers: int, batch: int) -> CacheRecord:
        return cls(
            [[] for _ in range(num_layers)],
            [False] * num_layers,
            [(0,) * batch for _ in range(num_layers)],
        )

    def copy(self) -> CacheRecord:
        """A record that can grow on its own (a cache that is a value is continued, not changed)."""
        return CacheRecord(
            [list(segments) for segments in self.segments],
            list(self.compressed),
            list(self.removed),
        )

    def length(self, layer: int) -> int:
        """Entries that the layer should hold."""
        return sum(segment.entries for segment in self.segments[layer])

    def append(self, layer: int, new: Segment) -> None:
        """Note new entries; stretches without padding or gaps are joined."""
        segments = self.segments[layer]
        whole = new.origin is None and not any(new.pads)
        if segments and whole and segments[-1].origin is None:
            last = segments[-1]
            segments[-1] = last._replace(entries=last.entries + new.entries)
        else:
            segments.append(new)

    def valid(self, layer: int, device: torch.device) -> torch.Tensor | None:
        """`[B, K]` false at padding, or None if the layer holds none."""
        segments = self.segments[layer]
        return valid_entries(segments, device)

    def reconcile(self, cache: Any, pads: tuple[int, ...]) -> None:
        """Bring the record in line with the cache: crops are followed, strangers adopted.

        Args:
            cache: the cache before this forward pass.
            pads: left padding to assume for entries that were made outside any session.

        Raises:
            SessionError: a compressed cache grew outside its session.
        """
        if not any(self.segments):
            self._check_stranger(cache)
        for layer, segments in enumerate(self.segments):
            actual, known = int(cache.get_seq_length(layer)), self.length(layer)
            if actual < known:
                self._trim(layer, known - actual)
            elif actual > known and not segments:
                segments.append(Segment(pads, actual))
            elif actual > known:
                raise SessionError(
                    f"the cache of layer {layer} grew from {known} to {actual} entries outside "
                    "the session",
                    field="past_key_values",
                    remedy="continue a compressed cache inside the session that made it",
                )

    def _check_stranger(self, cache: Any) -> None:
        """Refuse a cache that was compressed elsewhere (or copied): its masks are not known."""
        lengths = {int(cache.get_seq_length(layer)) for layer in range(len(self.segments))}
        if len(lengths) > 1:
            raise SessionError(
                "the layers of this cache hold different numbers of entries, and which tokens they "
                "are is known only to the session that made it",
                field="past_key_values",
                value=sorted(lengths),
                remedy="continue the cache itself, not a copy, inside its own session",
            )

    def _trim(self, layer: int, count: int) -> None:
        segments = self.segments[layer]
        while count > 0 and segments:
            last = segments.pop()
            if last.entries > count:
                left = last.entries - count
                origin = None if last.origin is None else last.origin[:, :left]
                segments.append(last._replace(entries=left, origin=origin))
            count -= last.entries
        if not segments:
            self.compressed[layer] = False
            self.removed[layer] = (0,) * len(self.removed[layer])


def valid_entries(segments: Sequence[Segment], device: torch.device) -> torch.Tensor | None:
    """`[B, K]` false at padding of the stretches, or None if there is none."""
    if not any(any(segment.pads) for segment in segments):
        return None
    parts = []
    for segment in segments:
        first = torch.tensor(segment.pads, device=device)[:, None]
        parts.append(torch.arange(segment.entries, device=device)[None] >= first)
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
    held = getattr(cache, "layers", ())
    if layer >= len(held) or not getattr(held[layer], "is_sliding", False):
        return past
    entry = held[layer]
    stored = entry.keys.shape[-2] if entry.is_initialized else 0
    # While past states are recorded (assisted decoding) more is stored than attention is given.
    return int(min(stored, entry.sliding_window - 1, past))


def slides(cache: Any) -> bool:
    """Whether any layer of a cache forgets what lies outside a window."""
    return any(getattr(layer, "is_sliding", False) for layer in getattr(cache, "layers", ()))


def refuse_unsupported(cache: Any) -> None:
    """Raise for caches whose layers all have the same preallocated length."""
    if getattr(cache, "is_compileable", False):
        raise SessionError(
            f"{type(cache).__name__} allocates the same length in every layer, so compression "
            "would save nothing",
            field="past_key_values",
            remedy="use the default DynamicCache (leave cache_implementation unset)",
        )
