"""How far compression may go, by the number of vision tokens."""

from __future__ import annotations

from collections.abc import Sequence

from kept import Kept

from evidence_page.figures import NOTHING, Cells, bounds, loss_of, table
from lightkv.lab.reporting.formatting import interval_text

LOSS = 0.01
"""That may be lost where a retention counts as achievable."""


def achievable(cells: Cells, task: str, method: str) -> tuple[float | None, ...] | None:
    """The smallest retention at which, and above which, no more than `LOSS` is lost.

    By the estimate; as small as the intervals allow; as large as they demand. None in the place of one
    where the largest retention of the grid loses more.
    """
    found = []
    for cell in cells.where(task=task, method=method):
        loss = loss_of(cell)
        if loss is not None:
            found.append((float(cell["factor_retention"]), loss))
    found.sort(key=lambda each: -each[0])
    if not found:
        return None
    return tuple(
        _last([(retention, getattr(loss, end)) for retention, loss in found])
        for end in ("value", "high", "low")
    )


def _last(found: Sequence[tuple[float, float]]) -> float | None:
    last = None
    for retention, change in found:
        if change < -LOSS:
            return last
        last = retention
    return last


def tokens(found: Sequence[Kept]) -> str:
    """Achievable retention of each method, by task and number of vision tokens."""
    methods = list(dict.fromkeys(m for kept in found for m in Cells(kept).labels("method")))
    rows = []
    for kept in found:
        cells = Cells(kept)
        largest = max(float(each) for each in cells.labels("retention"))
        for task in cells.tasks:
            what = kept.head["tasks"][task]["name"]
            mean = bounds(cells.vanilla(task) or {}, "mean")
            score = NOTHING if mean is None else interval_text(True, mean)
            texts = [_reach(achievable(cells, task, method), largest) for method in methods]
            rows.append([what, str(int(task)), score, *texts])
    return table(["", "vision tokens", "uncompressed", *(f"`{m}`" for m in methods)], rows)


def _reach(found: tuple[float | None, ...] | None, largest: float) -> str:
    if found is None:
        return NOTHING
    estimate, small, large = (f"> {largest:g}" if x is None else f"{x:g}" for x in found)
    return f"{estimate} ({small} to {large})"
