"""What lightkv remembers of a transformers cache: which entries of each layer are padding.

Compressed layers hold fewer entries than layer 0, so the masks that transformers builds (one for all
layers) do not fit them. The record of a cache lives as long as the cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from lightkv.core.errors import SessionError

Segment = tuple[tuple[int, ...], int]
"""(left padding of each row, entries) of a stretch of the cache, in order."""


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

    def length(self, layer: int) -> int:
        """Entries that the layer should hold."""
        return sum(entries for _, entries in self.segments[layer])

    def append(self, layer: int, pads: tuple[int, ...], entries: int) -> None:
        """Note new entries; stretches without padding are joined."""
        segments = self.segments[layer]
        if segments and not any(pads):
            last_pads, last_entries = segments[-1]
            segments[-1] = (last_pads, last_entries + entries)
        else:
            segments.append((pads, entries))

    def valid(self, layer: int, device: torch.device) -> torch.Tensor | None:
        """`[B, K]` false at padding, or None if the layer holds none."""
        segments = self.segments[layer]
        if not any(any(pads) for pads, _ in segments):
            return None
        parts = []
        for pads, entries in segments:
            first = torch.tensor(pads, device=device)[:, None]
            parts.append(torch.arange(entries, device=device)[None] >= first)
        return torch.cat(parts, dim=1)

    def reconcile(self, cache: Any, pads: tuple[int, ...]) -> None:
        """Bring the record in line with the cache: crops are followed, strangers adopted.

        Args:
            cache: the cache before this forward pass.
            pads: left padding to assume for entries that were made outside any session.

        Raises:
            SessionError: a compressed cache grew outside its session.
        """
        for layer, segments in enumerate(self.segments):
            actual, known = int(cache.get_seq_length(layer)), self.length(layer)
            if actual < known:
                self._trim(layer, known - actual)
            elif actual > known and not segments:
                segments.append((pads, actual))
            elif actual > known:
                raise SessionError(
                    f"the cache of layer {layer} grew from {known} to {actual} entries outside "
                    "the session",
                    field="past_key_values",
                    remedy="continue a compressed cache inside the session that made it",
                )

    def _trim(self, layer: int, count: int) -> None:
        segments = self.segments[layer]
        while count > 0 and segments:
            pads, entries = segments.pop()
            if entries > count:
                segments.append((pads, entries - count))
            count -= entries
        if not segments:
            self.compressed[layer] = False
            self.removed[layer] = (0,) * len(self.removed[layer])


def refuse_unsupported(cache: Any) -> None:
    """Raise for caches whose layers all have the same preallocated length."""
    if getattr(cache, "is_compileable", False):
        raise SessionError(
            f"{type(cache).__name__} allocates the same length in every layer, so compression "
            "would save nothing",
            field="past_key_values",
            remedy="use the default DynamicCache (leave cache_implementation unset)",
        )
