"""Kinds of question, and what the axes of a grid do, as flat rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from json import dumps as to_json

from lightkv.lab.grids.flat import Row as Flat
from lightkv.lab.grids.flat import identity
from lightkv.lab.grids.store import Store
from lightkv.lab.reporting.effects import Effect, main_effects, simple_effects
from lightkv.lab.reporting.study import Study, build_study
from lightkv.lab.stats import Estimate


def kind_rows(store: Store, factors: Sequence[str]) -> Iterator[Flat]:
    """A row for each finished cell and each kind of question that it was asked.

    Raises:
        StoreError: no cell has finished.
        ConfigError: scipy is not installed.
    """
    for row in _study(store).rows:
        for kind, found in row.kinds.items():
            yield {
                **identity(row.cell, factors),
                "kind": kind,
                "samples": found.samples,
                **_bounds("mean", found.score),
                "baseline": row.base,
                **_bounds("difference", found.change),
            }


def effect_rows(store: Store, factors: Sequence[str] = ()) -> Iterator[Flat]:
    """A row for each label of an axis against the axis' first label, all else equal.

    `average` says of what: "" of one pair of cells, whose other axes have the labels of `setting`
    (JSON); `settings` of all pairs at a retention; `all` of those at all retentions. `pairs` counts
    them.

    Raises:
        StoreError: no cell has finished.
        ConfigError: scipy is not installed.
    """
    study = _study(store)
    for group in study.groups:
        for effect in [*simple_effects(study, group), *main_effects(study, group)]:
            yield {
                "model": group.model,
                "task": group.task,
                "samples": group.samples,
                "clusters": group.clusters,
                "axis": effect.axis,
                "label": effect.label,
                "first": effect.first,
                "average": _average(effect),
                "retention": effect.retention,
                "setting": to_json(effect.setting or {}, ensure_ascii=False),
                "pairs": effect.pairs,
                **_bounds("difference", effect.change),
                "clear": effect.change.clear,
            }


def _study(store: Store) -> Study:
    return build_study(store.cells(), store.outcomes, store.meta)


def _average(effect: Effect) -> str:
    if effect.setting is not None:
        return ""
    return "all" if effect.retention is None else "settings"


def _bounds(name: str, found: Estimate | None) -> Flat:
    values = (None, None, None) if found is None else (found.value, found.low, found.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
