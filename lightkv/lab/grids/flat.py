"""Cells and samples of a results file as flat rows, with the same columns in every row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from json import dumps as to_json
from typing import Any

from lightkv.lab.errors import StoreError
from lightkv.lab.grids.cells import repeats
from lightkv.lab.grids.store import Store
from lightkv.lab.grids.table import Line, summary
from lightkv.lab.outcomes import Cell, Measured

Row = dict[str, Any]
_MEASURED = tuple(field.name for field in fields(Measured))
_DIFFERENCE = ("difference", "low", "high", "wins", "losses", "mcnemar_p")


def studies(stores: Sequence[Store]) -> list[str]:
    """Names of several files, without their ends.

    Raises:
        StoreError: two have one name.
    """
    names = [store.path.stem for store in stores]
    for name in names:
        if names.count(name) > 1:
            raise StoreError(
                "two results files have the same name",
                field="results",
                value=name,
                remedy="rename one, so that their rows can be told apart",
            )
    return names


def factors_of(stores: Sequence[Store]) -> list[str]:
    """Factors of the cells of all files, in order: a column for each."""
    return list(
        dict.fromkeys(f for store in stores for cell in store.cells() for f in cell.factors)
    )


def cell_rows(store: Store, factors: Sequence[str]) -> Iterator[Row]:
    """A row for each cell: what it is, what came of it, and its paired differences.

    Raises:
        ConfigError: scipy is not installed.
    """
    twins = repeats(store.cells())
    for line in summary(store, losses=True):
        cell = line.cell
        twin = twins.get(cell.id)
        yield {
            **identity(cell, factors),
            "status": cell.status,
            "reason": cell.reason,
            "repeats": None if twin is None else twin.name,
            "remark": line.remark or None,
            "model": cell.spec.get("model"),
            "dtype": cell.spec.get("dtype"),
            "task": _json(cell.spec.get("task")),
            "data": cell.spec.get("data"),
            "seed": cell.spec.get("seed"),
            "wanted_retention": cell.spec.get("retention"),
            "samples": line.samples,
            "clusters": line.clusters,
            "mean": line.mean,
            "mean_low": line.low,
            "mean_high": line.high,
            "baseline": line.baseline,
            **_difference(line),
            **_vanilla(line),
            "retention": cell.retention,
            "flops": cell.flops,
            "kv_bytes": cell.kv_bytes,
            "seconds": cell.seconds,
            **{f"measured_{key}": getattr(cell.measured, key, None) for key in _MEASURED},
            "tokens": _json(cell.tokens),
            "pipeline": _json(cell.spec.get("pipeline")),
            "versions": _json(cell.versions),
        }


def _difference(line: Line) -> Row:
    gap: Row = {} if line.difference is None else asdict(line.difference)
    names = [name if name == "difference" else f"difference_{name}" for name in _DIFFERENCE]
    found = dict(zip(names, (gap.get(key) for key in _DIFFERENCE), strict=True))
    return {**found, "difference_holm_p": line.holm}


def _vanilla(line: Line) -> Row:
    """The difference to the uncompressed model, which is another one where a grid has a baseline."""
    gap: Row = {} if line.vanilla is None else asdict(line.vanilla)
    names = (("vanilla_difference", "difference"), ("vanilla_low", "low"), ("vanilla_high", "high"))
    return {name: gap.get(key) for name, key in names}


def sample_rows(store: Store, factors: Sequence[str]) -> Iterator[Row]:
    """A row for each answer."""
    for cell in store.cells():
        for outcome in store.outcomes(cell.id):
            yield {**identity(cell, factors), **asdict(outcome)}


def identity(cell: Cell, factors: Sequence[str]) -> Row:
    """What a cell is called; a factor that it has not is None."""
    labels = {f"factor_{factor}": cell.factors.get(factor) for factor in factors}
    return {"cell": cell.id, "name": cell.name, **labels}


def _json(value: Any) -> str:
    return to_json(value, ensure_ascii=False)
