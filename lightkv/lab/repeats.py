"""Cells of a grid that compute what another cell computes: they are run once and counted as often as
the grid has them.

Known from the specs alone, so results of any age tell it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lightkv.lab.records import Cell

REPEAT = "computes the same as "
"""Begins the reason of a cell that is skipped as a repeat; other skipped cells are nobody's repeat."""


def cell_id(spec: dict[str, Any]) -> str:
    """The same spec gives the same identity in every process."""
    text = json.dumps(spec, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def without_repeats(cells: Sequence[Cell]) -> list[Cell]:
    """Cells whose pipeline, model and task were there already are skipped (another seed of a
    pipeline that draws nothing, two labels that come to the same)."""
    seen: dict[str, str] = {}
    found = []
    for cell in cells:
        if cell.status == "skipped":
            found.append(cell)
            continue
        key = computation(cell)
        if key in seen:
            identity = cell_id({**cell.spec, "name": cell.name})
            reason = f"{REPEAT}{seen[key]!r}"
            cell = replace(cell, id=identity, status="skipped", reason=reason)
        else:
            seen[key] = cell.name
        found.append(cell)
    return found


def repeats(cells: Sequence[Cell]) -> dict[str, Cell]:
    """Identity of each cell that was skipped as a repeat → the cell that computes the same.

    Cells that a grid skips by a rule of its own are not in it, whatever they would compute.
    """
    first = {computation(cell): cell for cell in cells if cell.status != "skipped"}
    found = {}
    for cell in cells:
        if cell.status == "skipped" and cell.reason.startswith(REPEAT):
            twin = first.get(computation(cell))
            if twin is not None:
                found[cell.id] = twin
    return found


def computation(cell: Cell) -> str:
    """Equal for cells that compute the same. The name of a pipeline decides nothing."""
    what = {key: cell.spec.get(key) for key in ("model", "task", "data", "pipeline")}
    pipeline = what["pipeline"] or {}
    what["pipeline"] = {k: v for k, v in pipeline.items() if k not in ("name", "source")}
    return cell_id(what)
