"""How long the rest of a run will take, from cells of the same model and task that have ended."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence

from lightkv.lab.outcomes import Cell

_Kind = tuple[str, str]


class Remaining:
    """The time left of a run.

    Args:
        cells: of the results file; those that are done say how long such cells took.
        workers: processes that share the work.
        clock: seconds.
    """

    def __init__(
        self, cells: Sequence[Cell], workers: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._workers = workers
        self._left = {cell.id: cell for cell in cells if cell.status == "pending"}
        self._began: dict[str, float] = {}
        self._now: dict[_Kind, list[float]] = {}
        self._before: dict[_Kind, list[float]] = {}
        for cell in cells:
            if cell.status == "done" and cell.seconds is not None:
                self._before.setdefault(_kind(cell), []).append(cell.seconds)

    def started(self, cell: Cell) -> None:
        """A cell begins."""
        self._began[cell.id] = self._clock()

    def ended(self, cell: Cell, failed: bool) -> None:
        """A cell has ended; one that failed says nothing of the others."""
        began = self._began.pop(cell.id, None)
        self._left.pop(cell.id, None)
        if began is not None and not failed:
            self._now.setdefault(_kind(cell), []).append(self._clock() - began)

    def seconds(self) -> float | None:
        """That the rest will take; None as long as no cell has ended."""
        now, total = self._clock(), 0.0
        for cell in self._left.values():
            expected = self._expected(cell)
            if expected is None:
                return None
            passed = now - self._began[cell.id] if cell.id in self._began else 0.0
            total += max(0.0, expected - passed)
        return total / max(1, min(self._workers, len(self._left)))

    def _expected(self, cell: Cell) -> float | None:
        """Mean of such cells: of this run, else of the runs before, else of all cells."""
        kind = _kind(cell)
        every = [*self._now.values(), *self._before.values()]
        found = self._now.get(kind) or self._before.get(kind) or [s for some in every for s in some]
        return statistics.fmean(found) if found else None


def _kind(cell: Cell) -> _Kind:
    return str(cell.spec.get("model")), json.dumps(cell.spec.get("task"), sort_keys=True)
