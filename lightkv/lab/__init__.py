"""The lab: grids, tuning, searches, reports and pictures. Sits on top; nothing below imports it.

import lightkv.lab

with lightkv.lab.ablate("grid.yaml", out="results.sqlite", workers=2) as store:
    for cell in store.cells():
        print(cell.name, cell.status, cell.retention)
"""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "Cell": "outcomes",
    "Comparison": "grids.comparing",
    "Difference": "stats",
    "Findings": "designs.findings",
    "Grid": "grids.schema",
    "Measured": "outcomes",
    "Outcome": "outcomes",
    "SearchStudy": "designs.schema",
    "Store": "grids.store",
    "Subject": "subject",
    "Task": "tasks",
    "Tuned": "search.result",
    "ablate": "grids.run",
    "build_task": "tasks",
    "compare": "grids.comparing",
    "export": "reporting.exporting",
    "frame": "reporting.exporting",
    "mean_interval": "stats",
    "paired": "stats",
    "report": "reporting",
    "rows": "reporting.exporting",
    "search_designs": "designs.run",
    "search_page": "designs.page",
    "show": "pictures.show",
    "summary": "grids.table",
    "tune": "search.tune",
}
"""Public name → module; imported when first used, so that `import lightkv.lab` costs nothing.

No module has a public name: once imported, it would be found in place of what is in it.
"""

__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
