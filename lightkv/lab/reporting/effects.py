"""Main effects: what changing one axis does, averaged over all else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lightkv.lab.reporting.study import Group, Row, Study
from lightkv.lab.stats import Estimate


@dataclass(frozen=True)
class Effect:
    """An axis' label against the axis' first label.

    Attributes:
        axis, label, first: of the grid.
        retention: label; None for all retentions together.
        pairs: of cells that differ in this axis only.
        change: mean over the pairs of the difference in score, with its 95 % interval; clear
            among the effects of all axes at that retention, or among all simple effects.
        setting: of a simple effect, which is one pair: the labels of the other axes; None of a mean.
    """

    axis: str
    label: str
    first: str
    retention: str | None
    pairs: int
    change: Estimate
    setting: dict[str, str] | None = None


def main_effects(study: Study, group: Group) -> list[Effect]:
    """Effects of all axes at each retention, and over all retentions, in the grid's order."""
    named = [
        (axis, label, labels[0]) for axis, labels in study.axes.items() for label in labels[1:]
    ]
    found: dict[tuple[int, int], Effect] = {}
    for level, retention in enumerate(group.levels):
        here = {}
        for number, (axis, label, first) in enumerate(named):
            pairs = list(_pairs(group, axis, first, label))
            pairs = [pair for pair in pairs if retention in (None, pair[0].retention)]
            if pairs:
                here[number] = pairs
        parts = [([b for _, b in pairs], [a for a, _ in pairs]) for pairs in here.values()]
        for number, change in zip(here, group.estimates(parts), strict=True):
            axis, label, first = named[number]
            effect = Effect(axis, label, first, retention, len(here[number]), change)
            found[number, level] = effect
    return [found[key] for key in sorted(found)]


def simple_effects(study: Study, group: Group) -> list[Effect]:
    """What each label of an axis does in each setting of the other axes, in the grid's order.

    Where axes interact, no mean over settings tells what a change does in one of them.
    """
    named = [(a, label, labels[0]) for a, labels in study.axes.items() for label in labels[1:]]
    pairs = [
        (axis, label, first, base, row)
        for axis, label, first in named
        for base, row in _pairs(group, axis, first, label)
    ]
    changes = group.estimates([([row], [base]) for *_, base, row in pairs])
    return [
        Effect(axis, label, first, row.retention, 1, change, _without(row, axis))
        for (axis, label, first, _, row), change in zip(pairs, changes, strict=True)
    ]


def by_weight(effects: list[Effect]) -> list[Effect]:
    """The effects over all retentions, the largest first."""
    overall = [effect for effect in effects if effect.retention is None]
    return sorted(overall, key=lambda effect: -abs(effect.change.value))


def _pairs(group: Group, axis: str, first: str, label: str) -> Iterator[tuple[Row, Row]]:
    """Points of the grid that differ in one axis only. A repeat counts with the figures of the cell that
    computes the same: without it the rest would be averaged over a part of the grid."""
    design = group.design
    rest = {}
    for row in design:
        if not row.plain and row.cell.factors.get(axis) == first:
            rest[_others(row, axis)] = row
    for row in design:
        if not row.plain and row.cell.factors.get(axis) == label:
            base = rest.get(_others(row, axis))
            if base is not None:
                yield base, row


def _without(row: Row, axis: str) -> dict[str, str]:
    return {name: label for name, label in row.setting.items() if name != axis}


def _others(row: Row, axis: str) -> frozenset[tuple[str, str]]:
    return frozenset((k, v) for k, v in row.cell.factors.items() if k != axis)
