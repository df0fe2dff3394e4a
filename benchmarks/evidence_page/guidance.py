"""Does what the prompt's guidance gains fade with time?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from kept import Kept, Row

from evidence_page.figures import NOTHING, Cells, bounds, table, text
from lightkv.lab.stats import Estimate

NORMAL = 1.959964
"""Standard errors to each side of an interval of 95 %."""


def frames(kind: str) -> int:
    """`06 frames before the end` → 6."""
    return int(kind.split()[0])


def gains(kept: Kept, cell: Row) -> list[tuple[int, int, Estimate]]:
    """Frames since the digit was seen, questions, and what the cell gains on its baseline."""
    found = []
    for row in kept.kinds:
        gain = bounds(row, "difference")
        if row["name"] == cell["twin"] and gain is not None:
            found.append((frames(row["kind"]), row["samples"], gain))
    return sorted(found, key=lambda each: each[0])


def trend(found: Sequence[tuple[int, int, Estimate]]) -> Estimate | None:
    """What the gain changes by from the newest frame to the oldest: a line through the gains.

    Least squares, each gain weighted by its own interval (taken as normal and independent).
    """
    errors = [(gain.high - gain.low) / (2 * NORMAL) for *_, gain in found]
    if len(found) < 3 or not all(0.0 < error < math.inf for error in errors):
        return None
    weights = [1.0 / error**2 for error in errors]
    total = sum(weights)
    far = [float(distance) for distance, *_ in found]
    middle = sum(w * x for w, x in zip(weights, far, strict=True)) / total
    spread = sum(w * (x - middle) ** 2 for w, x in zip(weights, far, strict=True))
    rise = sum(
        w * (x - middle) * gain.value for w, x, (*_, gain) in zip(weights, far, found, strict=True)
    )
    length = far[-1] - far[0]
    value, side = length * rise / spread, length * NORMAL / math.sqrt(spread)
    return Estimate(value, value - side, value + side)


def fades(gain: Estimate | None, change: Estimate | None) -> str:
    """Whether a gain gets smaller with time; only asked where there is one."""
    if gain is None or change is None:
        return NOTHING
    if gain.low <= 0.0:
        return "no gain shown"
    if change.high < 0.0:
        return "yes"
    return "no, it grows" if change.low > 0.0 else "undecided"


def guidance(found: Sequence[Kept]) -> str:
    """Gain of each kind of guidance on none: over all, newest and oldest frames, and its trend."""
    rows = []
    for kept in found:
        cells = Cells(kept)
        for cell in cells.where(task="clips"):
            parts = gains(kept, cell)
            if cell.get("factor_guidance") in (None, "none") or cell["status"] != "done":
                continue
            gain, change = bounds(cell, "difference"), trend(parts)
            ends = [text(each[2]) for each in (parts[0], parts[-1])] if parts else [NOTHING] * 2
            names = (f"factor_{name}" for name in ("method", "retention", "guidance"))
            labels = [cell.get(name) or "" for name in names]
            said = fades(gain, change)
            rows.append([*labels, text(gain), *ends, text(change), said])
    heads = ["method", "retention", "guidance", "gain", "seen at the end", "seen first"]
    return table([*heads, "change with time", "fades?"], rows)
