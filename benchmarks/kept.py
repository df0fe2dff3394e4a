"""What is kept of a results file: one small text file, made of what the lab exports.

Results files are databases with every answer, too large for a repository. Of a grid its cells, kinds of
question and effects stay (`lightkv export`), of a search its findings, with versions and machine. A row
is a line, so that a change can be read as one; figures have six digits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightkv.lab import Store, rows
from lightkv.lab.designs.findings import findings
from lightkv.lab.designs.plain import plain
from lightkv.lab.errors import StoreError

Row = dict[str, Any]
TABLES = ("cells", "kinds", "effects")
LEFT_OUT = {
    "cells": ("cell", "dtype", "task", "data", "seed", "wanted_retention", "tokens", "pipeline"),
    "kinds": ("cell", "factor_model", "factor_task", "factor_retention", "factor_seed"),
    "effects": (),
}
"""Columns that stand once in the head, follow from the grid, or are those of the cell of that name."""
FROM_CELLS = ("versions", "measured_machine")
"""Columns of cells that are the same in nearly all of them: the head has what there is."""


@dataclass(frozen=True)
class Kept:
    """One file, read again.

    Attributes:
        head: `of` (grid, search), the grid or study, versions, models, machines.
        cells, kinds, effects: rows of a grid, as `lightkv.lab.rows` gives them.
        found: of a search, as `lightkv.lab.designs.plain.plain` gives it.
    """

    head: Row
    cells: list[Row] = field(default_factory=list)
    kinds: list[Row] = field(default_factory=list)
    effects: list[Row] = field(default_factory=list)
    found: Row = field(default_factory=dict)

    def count(self, *statuses: str) -> int:
        """Cells with one of these statuses."""
        return sum(cell["status"] in statuses for cell in self.cells)


def keep(results: Path, target: Path) -> bool:
    """Write what is kept of a results file, finished or not; whether there is anything to keep.

    Raises:
        StoreError: the file cannot be read.
    """
    with Store.open(results) as store:
        if not store.cells():  # stopped while they were planned
            return False
        grid = store.meta["grid"]
        head = {key: store.meta.get(key) for key in ("created", "versions", "models", "threads")}
        if "search" in grid:
            data: Row = {"of": "search", "study": grid["search"], **head}
            data["found"] = plain(findings(store))
            text = json.dumps(short(data), indent=1, ensure_ascii=False, allow_nan=False)
        else:
            tables = {name: _rows(store, name) for name in TABLES}
            head |= _shared(tables["cells"])
            text = _lines({"of": "grid", "grid": grid, **head}, tables)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_suffix(".tmp")
    beside.write_text(text + "\n", encoding="utf-8")
    beside.replace(target)
    return True


def read(path: Path) -> Kept:
    """What `keep` wrote."""
    data = json.loads(path.read_text(encoding="utf-8"))
    tables = {
        name: [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
        for name, table in ((name, data.pop(name)) for name in TABLES if name in data)
    }
    return Kept(found=data.pop("found", {}), head=data, **tables)


def _rows(store: Store, what: Any) -> list[Row]:
    try:
        return rows(store, what)
    except StoreError:  # no cell has finished: there are cells, and nothing to say of them
        return []


def _shared(cells: Sequence[Row]) -> Row:
    """Versions and machines of the cells that ran, and what each task asks."""
    ran = [cell for cell in cells if cell["status"] == "done"]
    tasks = {cell["factor_task"]: json.loads(cell["task"]) for cell in cells}
    versions = {cell["versions"] for cell in ran}
    return {
        "versions": [json.loads(each) for each in sorted(versions)],
        "machines": sorted({cell["measured_machine"] or "" for cell in ran} - {""}),
        "tasks": tasks,
    }


def _lines(head: Row, tables: dict[str, list[Row]]) -> str:
    """JSON with a line for each key of the head and for each row."""
    parts = [f"{_json(key)}: {_json(value)}" for key, value in short(head).items()]
    for name, found in tables.items():
        gone = (*LEFT_OUT[name], *FROM_CELLS)
        columns = [key for key in (found[0] if found else {}) if key not in gone]
        columns = [key for key in columns if not key.startswith("measured_")]
        lines = ",\n".join(_json(short([row[key] for key in columns])) for row in found)
        parts.append(f'{_json(name)}: {{"columns": {_json(columns)}, "rows": [\n{lines}\n]}}')
    return "{\n" + ",\n".join(parts) + "\n}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(", ", ": "))


def short(value: Any) -> Any:
    """Numbers with six digits; bounds that are infinite, which JSON cannot say, are null."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: short(each) for key, each in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [short(each) for each in value]
    return value
