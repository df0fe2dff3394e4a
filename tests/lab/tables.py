"""What two runs of a grid are compared by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from lightkv.lab.grids.store import Store


def table(path: Path) -> tuple[Any, ...]:
    """All that a results file says, but for times."""
    with Store.open(path) as store:
        cells = [replace(cell, seconds=None, measured=None) for cell in store.cells()]
        return cells, [store.outcomes(cell.id) for cell in cells], store.meta["baselines"]
