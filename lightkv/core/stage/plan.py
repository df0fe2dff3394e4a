"""The host side of a stage: which windows there are, how many tokens each keeps, and index tables.

Everything here follows from the layout and the stage's parameters. A plan is computed once for a
layout and reused for every batch with the same layout.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch

from lightkv.core.cells import numbers_of
from lightkv.core.contracts import PROTECTED, Partition, Partitioner, WindowSpec
from lightkv.core.errors import ConfigError
from lightkv.core.layout import Bands, Groups, IntArray, VisionLayout
from lightkv.core.modality import MODALITIES
from lightkv.core.stage.partitions import modality_of_labels, partition_of
from lightkv.core.transfer import all_to_device


@dataclass(frozen=True)
class Bucket:
    """Windows of equal population `n` that keep `keep` tokens each.

    Attributes:
        gather: `[G, n]` places of the windows' tokens in window-sorted order.
        windows: `[G]` number of each window in the batch.
        modality: of their tokens, where modalities have ratios of their own; else None.
        extent: bounds of their views, frames and places, as `Cells` has them.
    """

    population: int
    keep: int
    gather: torch.Tensor
    windows: IntArray
    modality: str | None = None
    extent: tuple[int, int, int] = (1, 1, 1)


@dataclass(frozen=True)
class StagePlan:
    """Index tables of one stage for one layout.

    Attributes:
        order: `[V₀]` (by origin) or `[V]` (by current rank) sort key of each token: its window and,
            inside the window, raster order.
        by: what `order` is indexed by.
        buckets: windows in which something is removed.
        passing: `[Q]` places, in window-sorted order, of tokens that stay as they are.
        groups, pads, length: static state after the stage.
        counts_before, counts_after: vision tokens of each row.
        populations: of each row, vision tokens in each of its windows, protected ones left out.
        fill: `[B·N′]` place of each kept row in the new batch, and `filled` whether any of the
            rows needs new padding.
        token_rank: `[V]` raster rank of each current token in its sample.
        inner: `[V₀]` inner window of each original token where windows share a budget, or None.
        window: number of each token's window in the batch, indexed like `order`.
        facts: what follows from the host data of the layout after the stage, which is the same each
            time that the plan is used (`VisionLayout.once`).
    """

    order: torch.Tensor
    by: Literal["cell", "rank"]
    buckets: tuple[Bucket, ...]
    passing: torch.Tensor
    groups: tuple[Groups, ...]
    pads: tuple[int, ...]
    length: int
    counts_before: tuple[int, ...]
    counts_after: tuple[int, ...]
    populations: tuple[tuple[int, ...], ...]
    fill: torch.Tensor
    filled: bool
    token_rank: torch.Tensor
    window: torch.Tensor
    inner: torch.Tensor | None = None
    facts: dict[Hashable, Any] = field(init=False, default_factory=dict, repr=False)

    @property
    def removes(self) -> bool:
        """Whether the stage does anything at all."""
        return bool(self.buckets)

    def to(self, device: torch.device) -> StagePlan:
        buckets = tuple(all_to_device(bucket, device) for bucket in self.buckets)
        return replace(all_to_device(self, device), buckets=buckets)


KeepRule = Callable[[int, str], int]
"""(population of a window, modality of its tokens) → survivors."""


def plan_stage(
    layout: VisionLayout,
    partitioner: Partitioner,
    windows: WindowSpec,
    keep: KeepRule,
    counts: dict[int, int] | None = None,
    ratio: float | Mapping[str, float] = 0.0,
) -> StagePlan:
    """Windows, budgets and tables of one stage.

    Args:
        layout: the layout before the stage.
        partitioner: splits each sample.
        windows: the schedule's `windows` entry.
        keep: population of a window and its modality → survivors.
        counts: survivors of some windows by their number, where a dynamic budget decided; at most
            what `keep` says.
        ratio: of the stage; where it names modalities, others stay as they are.

    Raises:
        ConfigError: windows that do not fit, or whose populations would depend on values.
    """
    partitions = [
        partition_of(layout, row, partitioner, windows, ratio) for row in range(layout.batch_size)
    ]
    rank, by_row, labels = _number_windows(layout, partitions)
    none = np.zeros(0, dtype=np.int64)
    populations = np.concatenate([none, *by_row])
    protected = np.concatenate([none, *labels]) == PROTECTED
    shown = _modality_of_windows(layout, partitions, rank, populations.size)
    keeps = np.array(
        [
            n if fixed else _checked_keep(keep, int(n), MODALITIES[kind])
            for n, fixed, kind in zip(populations, protected, shown, strict=True)
        ],
        dtype=np.int64,
    )
    for window, kept in (counts or {}).items():
        keeps[window] = kept
    extents = _extents(layout, partitions, rank, populations.size)
    kinds = shown if isinstance(ratio, Mapping) else None
    buckets, passing = _bucket(populations, keeps, kinds, extents)
    groups = _groups_after(layout, partitions, rank, keeps)
    left = tuple(int(group.population.sum()) for group in groups)
    length, pads, fill, filled = _compacted(layout, left)
    by: Literal["cell", "rank"] = "cell"
    if any(part.by == "rank" for part in partitions if part.label.size):
        by = "rank"
    token_rank = np.concatenate([np.arange(n) for n in (0, *layout.vision_counts)])
    inner = _inner(layout, partitions)
    return StagePlan(
        order=torch.from_numpy(rank if by == "rank" else _raster_within(layout, rank, inner)),
        by=by,
        buckets=buckets,
        passing=torch.from_numpy(passing),
        groups=groups,
        pads=pads,
        length=length,
        counts_before=layout.vision_counts,
        counts_after=left,
        populations=tuple(
            tuple(sizes[label != PROTECTED].tolist())
            for sizes, label in zip(by_row, labels, strict=True)
        ),
        fill=torch.from_numpy(fill),
        filled=filled,
        token_rank=torch.from_numpy(token_rank.astype(np.int64)),
        window=torch.from_numpy(rank),
        inner=None if inner is None else torch.from_numpy(inner),
    )


def _extents(
    layout: VisionLayout, partitions: list[Partition], rank: IntArray, count: int
) -> IntArray:
    """`[count, 3]` bounds of views (1, or those of its row), frames and places in each window."""
    extents = np.ones((count, 3), dtype=np.int64)
    cursor = 0
    for sample, part in zip(layout.samples, partitions, strict=True):
        window = rank[cursor : cursor + part.label.size]
        cursor += part.label.size
        cells = numbers_of(sample)
        if not cells.size:
            continue
        if part.by == "rank":
            # Which tokens a window holds depends on values.
            most = cells.max(axis=0) + 1
            extents[window] = np.maximum(np.array([len(sample.views), *most[1:]]), 1)
            continue
        for column in (1, 2):
            np.maximum.at(extents[:, column], window, cells[:, column] + 1)
        pairs = np.unique(np.stack([window, cells[:, 0]]), axis=1)[0]
        extents[pairs[1:][np.diff(pairs) == 0], 0] = len(sample.views)
    return extents


def _inner(layout: VisionLayout, partitions: list[Partition]) -> IntArray | None:
    """`[V₀]` inner windows, from 0 in each sample, or None if no sample has any."""
    if all(part.inner is None for part in partitions):
        return None
    parts = [
        np.zeros(sample.positions.size, dtype=np.int64) if part.inner is None else part.inner
        for sample, part in zip(layout.samples, partitions, strict=True)
    ]
    return np.concatenate(parts).astype(np.int64)


def _raster_within(layout: VisionLayout, rank: IntArray, inner: IntArray | None) -> IntArray:
    """`[V₀]` sort keys: by window, inner window and, inside it, cell by cell in raster order.

    Tiles of one picture come tile by tile in the sequence; a window that spans them is still worked
    on in the raster order of the picture.
    """
    raster = [np.zeros(0, dtype=np.int64)]
    for sample in layout.samples:
        tokens = sample.tokens
        frame, row, column = tokens.coordinates.T
        order = np.lexsort((column, row, frame, tokens.view))
        place = np.empty_like(order)
        place[order] = np.arange(order.size)
        raster.append(place.astype(np.int64))
    if inner is not None and inner.size:
        rank = rank * (int(inner.max()) + 1) + inner
    return rank * max(1, rank.size) + np.concatenate(raster)


def _checked_keep(keep: KeepRule, population: int, modality: str) -> int:
    kept = keep(population, modality)
    if not 0 <= kept <= population:
        raise ConfigError(
            f"a window of {population} tokens cannot keep {kept}",
            field="matcher.keep",
            value=kept,
            remedy=f"return a number from 0 to {population}",
        )
    return kept


def _number_windows(
    layout: VisionLayout, partitions: list[Partition]
) -> tuple[IntArray, list[IntArray], list[IntArray]]:
    """`[V₀]` or `[V]` windows numbered over the batch; per sample their populations and labels."""
    ranks, populations, labels = [np.zeros(0, dtype=np.int64)], [], []
    offset = 0
    for groups, part in zip(layout.groups, partitions, strict=True):
        unique, number = np.unique(part.label, return_inverse=True)
        number = number.astype(np.int64)
        ranks.append(number + offset)
        populations.append(_populations(groups, part, number, unique.size))
        labels.append(unique)
        offset += unique.size
    return np.concatenate(ranks), populations, labels


def _modality_of_windows(
    layout: VisionLayout, partitions: list[Partition], rank: IntArray, count: int
) -> IntArray:
    """`[count]` place in `MODALITIES` of the tokens of each window of the batch."""
    shown = np.zeros(count, dtype=np.int64)
    parts = zip(layout.samples, layout.groups, partitions, strict=True)
    found = [np.zeros(0, dtype=np.int64), *(modality_of_labels(*each) for each in parts)]
    shown[rank] = np.concatenate(found)
    return shown


def _populations(groups: Groups, part: Partition, number: IntArray, count: int) -> IntArray:
    """`[count]` current tokens in each window of a sample."""
    if part.by == "rank":
        return np.bincount(number, minlength=count).astype(np.int64)
    window = groups.owners(number)
    if np.any(window[groups.label] != number):
        raise ConfigError(
            "a window cuts through a group of tokens whose survivors depend on values, so its "
            "population would not be known ahead",
            field="windows",
            remedy="use windows that are unions of the previous stage's (4, then 2, then 1), a "
            "partitioner by rank, or one window over the whole image",
        )
    return groups.totals(number, count)


def _bucket(
    populations: IntArray, keeps: IntArray, shown: IntArray | None, extents: IntArray
) -> tuple[tuple[Bucket, ...], IntArray]:
    """Windows that are worked on together, and the places of what passes.

    Given `shown` `[number of windows]`, the modality of each, a bucket holds windows of one only.
    """
    starts = np.concatenate([[0], np.cumsum(populations)[:-1]]) if populations.size else populations
    passing = [
        np.arange(start, start + n)
        for start, n, kept in zip(starts, populations, keeps, strict=True)
        if kept == n
    ]
    buckets = []
    shrinking = np.flatnonzero(keeps < populations)
    kinds = np.zeros_like(populations) if shown is None else shown
    shapes = np.stack([populations, keeps, kinds], axis=1)[shrinking]
    for shape in sorted(set(map(tuple, shapes.tolist()))):
        windows = shrinking[np.all(shapes == shape, axis=1)]
        n, kept, kind = shape
        gather = torch.from_numpy(starts[windows][:, None] + np.arange(n)[None, :])
        modality = None if shown is None else MODALITIES[kind]
        views, frames, places = extents[windows].max(axis=0).tolist()
        extent = (views, frames, places)
        buckets.append(Bucket(n, kept, gather, windows.astype(np.int64), modality, extent))
    through = np.concatenate(passing).astype(np.int64) if passing else np.zeros(0, dtype=np.int64)
    return tuple(buckets), through


def _groups_after(
    layout: VisionLayout, partitions: list[Partition], rank: IntArray, keeps: IntArray
) -> tuple[Groups, ...]:
    out, cursor, window = [], 0, 0
    for groups, part in zip(layout.groups, partitions, strict=True):
        size = part.label.size
        local = rank[cursor : cursor + size] - window
        count = int(local.max()) + 1 if size else 0
        kept = keeps[window : window + count]
        out.append(_sample_groups(groups, part, local, kept))
        cursor, window = cursor + size, window + count
    return tuple(out)


def _sample_groups(groups: Groups, part: Partition, local: IntArray, kept: IntArray) -> Groups:
    bands = part.bands if part.bands is not None else tuple(None for _ in groups.bands)
    if part.by == "cell":
        return _split_protected(groups, part, local, kept, bands)
    # By rank: windows are runs of the current order, so only coarser groups stay known.
    known = part.known if part.known is not None else np.zeros_like(groups.label)
    unique, label = np.unique(known, return_inverse=True)
    label = label.astype(np.int64)
    return Groups(label, _rank_totals(groups, part, local, kept, label, unique.size), bands)


def _split_protected(
    groups: Groups,
    part: Partition,
    local: IntArray,
    kept: IntArray,
    bands: tuple[Bands | None, ...],
) -> Groups:
    """Windows become the known groups; protected tokens keep the groups that they had."""
    protected = part.label == PROTECTED
    if not protected.any():
        return Groups(local, kept, bands)
    windows = int(local.max()) + 1
    label = np.where(protected, windows + groups.label, local)
    unique, compact = np.unique(label, return_inverse=True)
    population = np.array(
        [kept[u] if u < windows else groups.population[u - windows] for u in unique],
        dtype=np.int64,
    )
    return Groups(compact.astype(np.int64), population, bands)


def _rank_totals(
    groups: Groups, part: Partition, local: IntArray, kept: IntArray, known: IntArray, count: int
) -> IntArray:
    """Survivors of each known group when windows by rank lie inside one group each."""
    # Known groups are runs of the raster order (images), so ranks follow from their populations.
    known_of_rank = np.repeat(np.arange(count), groups.totals(known, count))
    protected = part.label == PROTECTED
    totals = np.bincount(known_of_rank[protected], minlength=count).astype(np.int64)
    for window in np.unique(local[~protected]):
        members = np.unique(known_of_rank[(local == window) & ~protected])
        if members.size != 1:
            raise ConfigError(
                "a window by rank spans two images",
                field="partitioner",
                remedy="number the windows of each image separately",
            )
        totals[members[0]] += kept[window]
    return totals


def _compacted(
    layout: VisionLayout, counts: tuple[int, ...]
) -> tuple[int, tuple[int, ...], IntArray, bool]:
    """New physical length, left padding, and the place of each kept position in the new batch."""
    real = [text + count for text, count in zip(layout.text_counts, counts, strict=True)]
    length = max(real, default=0)
    pads = tuple(length - n for n in real)
    places = [row * length + np.arange(pad, length, dtype=np.int64) for row, pad in enumerate(pads)]
    fill = np.concatenate(places) if places else np.zeros(0, dtype=np.int64)
    return length, pads, fill, any(pads)
