"""Every preset at every retention."""

from __future__ import annotations

import math

from kept import Kept

from evidence_page.figures import NOTHING, Cells, Notes, asked, loss_of, loss_text, table

RETENTIONS = ("0.55", "0.35", "0.2", "0.1")
SORTED_BY = "0.2"
"""Retention by whose loss presets are sorted."""


def presets(kept: Kept) -> str:
    """Every preset at every retention, by the loss at `SORTED_BY`; the others behind them."""
    cells, notes = Cells(kept), Notes()
    [task] = cells.tasks
    rows = []
    for preset in sorted(cells.labels("method"), key=lambda name: rank(cells, name)):
        found = [cells.one(method=preset, retention=each) for each in RETENTIONS]
        at = found[RETENTIONS.index(SORTED_BY)] or {}
        costs = (at.get(name) for name in ("flops", "kv_bytes"))
        shares = [NOTHING if cost is None else f"{cost:.2f}" for cost in costs]
        rows.append([f"`{preset}`", *(loss_text(cell, notes) for cell in found), *shares])
    heads = ["preset", *RETENTIONS, f"FLOPs at {SORTED_BY}", f"KV at {SORTED_BY}"]
    return f"{asked(cells, task)}\n\n{table(heads, rows)}\n\n{notes}".strip()


def rank(cells: Cells, preset: str) -> tuple[float, ...]:
    """Losses, smallest first; what cannot reach a retention stands behind what does."""
    first = (SORTED_BY, *(each for each in RETENTIONS if each != SORTED_BY))
    found = (loss_of(cells.one(method=preset, retention=each) or {}) for each in first)
    return tuple(math.inf if loss is None else -loss.value for loss in found)
