"""Who may interact with whom: the windows of a sample, modality by modality.

A partitioner is asked about the tokens of one modality at a time, so that no window holds tokens of two,
whatever it covers. Where modalities have ratios of their own, those that lose nothing stand outside all
windows, and the partitioner is not asked about them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from lightkv.core.contracts import PROTECTED, Partition, Partitioner, WindowSpec
from lightkv.core.errors import ConfigError
from lightkv.core.layout import Bands, Groups, IntArray, SampleLayout, VisionLayout
from lightkv.core.modality import MODALITIES, removed
from lightkv.core.stage.checks import blamed


def partition_of(
    layout: VisionLayout,
    row: int,
    partitioner: Partitioner,
    windows: WindowSpec,
    ratio: float | Mapping[str, float] = 0.0,
) -> Partition:
    """Windows of a row. Where it ends in its image, its last token stands outside all of them.

    The next token is read off the last position, so that survives every stage as it is, whatever the
    partitioner says.

    Args:
        layout: before the stage.
        row: of the batch.
        partitioner: is asked about each modality.
        windows: the schedule's `windows` entry.
        ratio: of the stage; where it names modalities, all others stand outside all windows.

    Raises:
        ConfigError: windows that do not fit, or whose populations would depend on values; what is no
            partition of the row.
    """
    sample, groups = layout.samples[row], layout.groups[row]
    asked = [
        name
        for name in sample.modalities
        if not isinstance(ratio, Mapping) or removed(ratio, name) > 0
    ]
    if len(sample.modalities) == len(asked) < 2:
        part = _asked(partitioner, sample, groups, windows)
    else:
        parts = {
            name: _asked(partitioner, *_alone(sample, groups, name), windows) for name in asked
        }
        part = _joined(sample, groups, parts)
    return _without_last(part, groups) if layout.pinned[row] and part.label.size else part


def _asked(
    partitioner: Partitioner, sample: SampleLayout, groups: Groups, windows: WindowSpec
) -> Partition:
    """What a partitioner says of a sample, held against the contract of its role."""
    with blamed(partitioner, "partition"):
        part = partitioner.partition(sample, groups, windows)
    current = int(groups.population.sum())
    count = current if getattr(part, "by", None) == "rank" else sample.tokens.view.size
    label = getattr(part, "label", None)
    found = None
    if not isinstance(part, Partition) or not isinstance(label, np.ndarray):
        found = f"a {type(part).__name__} with labels of type {type(label).__name__}"
    elif label.shape != (count,):
        found = f"labels of shape {list(label.shape)}"
    elif not np.issubdtype(label.dtype, np.integer):
        found = f"labels of {label.dtype}"
    if found is not None:
        raise ConfigError(
            f"partitioner {partitioner.name!r} returned {found}, and `partition` returns "
            f"Partition(label), with a whole number for each of {count} tokens",
            field="partitioner",
            remedy="label every original token of sample.tokens once, or with by='rank' every current "
            "one; PROTECTED stands for tokens that stay",
        )
    return part


def modality_of_labels(sample: SampleLayout, groups: Groups, part: Partition) -> IntArray:
    """Place in `MODALITIES` of the tokens that a partition labels, indexed like its labels."""
    if part.by == "cell" or not part.label.size:
        return sample.tokens.modality
    return _modality_of_ranks(sample, groups)


def _without_last(part: Partition, groups: Groups) -> Partition:
    """The partition with the last token of the sequence protected, and known to survive."""
    label = part.label.copy()
    label[-1] = PROTECTED
    if part.by == "cell":
        return replace(part, label=label)
    known = np.zeros_like(groups.label) if part.known is None else part.known.copy()
    known[-1] = known.max() + 1
    return replace(part, label=label, known=known)


# -- one modality at a time -----------------------------------------------------------------------


def _alone(sample: SampleLayout, groups: Groups, name: str) -> tuple[SampleLayout, Groups]:
    """The tokens of one modality as a sample of their own, its images numbered from 0."""
    numbers = [number for number, view in enumerate(sample.views) if view.modality == name]
    views = [sample.views[number] for number in numbers]
    images = {image: new for new, image in enumerate(sorted({view.image for view in views}))}
    own = tuple(replace(view, image=images[view.image]) for view in views)
    here = sample.tokens.modality == MODALITIES.index(name)
    held, label = np.unique(groups.label[here], return_inverse=True)
    bands = tuple(groups.bands[number] for number in numbers)
    return SampleLayout(own, sample.pad), Groups(
        label.astype(np.int64), groups.population[held], bands
    )


def _joined(sample: SampleLayout, groups: Groups, parts: Mapping[str, Partition]) -> Partition:
    """One partition of all tokens from those of single modalities; others are protected."""
    if len({part.by for part in parts.values()}) > 1:
        raise ConfigError(
            "the windows of one modality are by cell, those of another by rank",
            field="partitioner",
            value=list(parts),
            remedy="give all modalities windows of one kind",
        )
    by_rank = any(part.by == "rank" for part in parts.values())
    tokens = sample.tokens
    of_label = _modality_of_ranks(sample, groups) if by_rank else tokens.modality
    label = np.full(of_label.size, PROTECTED, dtype=np.int64)
    windows = 0
    for name, part in parts.items():
        unique, number = np.unique(part.label, return_inverse=True)
        here = of_label == MODALITIES.index(name)
        label[here] = np.where(part.label == PROTECTED, PROTECTED, number + windows)
        windows += unique.size
    bands = _bands(sample, groups, parts)
    if by_rank:
        return Partition(label, by="rank", known=_known(sample, parts), bands=bands)
    return Partition(label, bands=bands, inner=_inner(sample, parts))


def _bands(
    sample: SampleLayout, groups: Groups, parts: Mapping[str, Partition]
) -> tuple[Bands | None, ...]:
    """Bands of each view; those of a modality that is left alone stay."""
    given = {name: iter(part.bands or ()) for name, part in parts.items()}
    return tuple(
        next(given[view.modality], None) if view.modality in given else kept
        for view, kept in zip(sample.views, groups.bands, strict=True)
    )


def _inner(sample: SampleLayout, parts: Mapping[str, Partition]) -> IntArray | None:
    if all(part.inner is None for part in parts.values()):
        return None
    inner = np.zeros_like(sample.tokens.modality)
    for name, part in parts.items():
        if part.inner is not None:
            inner[sample.tokens.modality == MODALITIES.index(name)] = part.inner
    return inner


def _known(sample: SampleLayout, parts: Mapping[str, Partition]) -> IntArray:
    """`[V₀]` groups whose populations are known after windows by rank; an image where nobody says."""
    tokens = sample.tokens
    found = np.stack([tokens.modality, tokens.image], axis=1)
    for name, part in parts.items():
        here = tokens.modality == MODALITIES.index(name)
        found[here, 1] = 0 if part.known is None else part.known
    _, first, number = np.unique(found, axis=0, return_index=True, return_inverse=True)
    place = np.empty_like(first)
    place[np.argsort(first)] = np.arange(first.size)
    known: IntArray = place[number.reshape(-1)].astype(np.int64)
    if np.any(np.diff(known) < 0):
        raise _interleaved(sample)
    return known


def _modality_of_ranks(sample: SampleLayout, groups: Groups) -> IntArray:
    """`[V]` place in `MODALITIES` of each current token.

    Raises:
        ConfigError: modalities take turns, and which of their tokens are left depends on values.
    """
    kinds = sample.tokens.modality
    run = np.concatenate([[0], np.cumsum(np.diff(kinds) != 0)]).astype(np.int64)[: kinds.size]
    if np.any(groups.owners(run)[groups.label] != run):
        raise _interleaved(sample)
    starts = np.flatnonzero(np.diff(run, prepend=-1))
    return np.repeat(kinds[starts], groups.totals(run, starts.size))


def _interleaved(sample: SampleLayout) -> ConfigError:
    names = " and ".join(sample.modalities)
    return ConfigError(
        f"tokens of {names} take turns in this prompt, and windows by rank need each in one piece",
        field="partitioner",
        value=list(sample.modalities),
        remedy="use a partitioner by cells, such as 'windows' or 'whole'",
    )
