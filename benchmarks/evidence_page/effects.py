"""What the labels of an axis do, the tasks side by side, and whether it carries over."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from kept import Kept, Row

from evidence_page.figures import (
    NOTHING,
    Cells,
    Notes,
    asked,
    bounds,
    loss_text,
    table,
    text,
    verdict,
)
from lightkv.lab.stats import Estimate

VERDICTS = ("yes", "opposite", "undecided")
FIRST = "demo"
"""The first model; effects on it may carry over to others."""


def effects(
    found: Sequence[Kept], axis: str, keep: Callable[[Row], bool] = lambda row: True
) -> str:
    """Simple effects of an axis' labels, the tasks side by side, and whether they carry over.

    Args:
        found: the first model's grid, then the second's, as far as they ran.
        axis: of both grids.
        keep: which rows of effects are shown.
    """
    seen: dict[tuple[str, str, str], dict[str, Estimate | None]] = {}
    tasks: dict[str, str] = {}
    for kept in found:
        for row in kept.effects:
            if row["axis"] != axis or row["average"] or not keep(row):
                continue
            tasks[row["task"]] = row["model"]
            setting = ", ".join(json.loads(row["setting"]).values())
            key = setting, row["label"], row["retention"] or ""
            seen.setdefault(key, {})[row["task"]] = bounds(row, "difference")
    return _side_by_side(("with", axis, "retention"), seen, tasks)


def _side_by_side(
    heads: Sequence[str],
    seen: Mapping[tuple[str, ...], Mapping[str, Estimate | None]],
    tasks: Mapping[str, str],
) -> str:
    """A column for each task (→ its model), and one of what carries over from the first model."""
    # A setting that is the same in all rows tells nothing; labels and retentions always do.
    several = [place > 0 or len({key[0] for key in seen}) > 1 for place in range(len(heads))]
    own = next((task for task, model in tasks.items() if model == FIRST), "")
    others = [task for task, model in tasks.items() if model != FIRST]
    rows, words = [], list[str]()
    for key, here in seen.items():
        names = [part for part, some in zip(key, several, strict=True) if some]
        said = {task: verdict(here.get(own), here.get(task)) for task in others}
        words += said.values()
        rows.append([*names, *(text(here.get(task)) for task in tasks), _said(said)])
    shown = [head for head, some in zip(heads, several, strict=True) if some]
    return f"{table([*shown, *tasks, 'carries over?'], rows)}\n\n{_counted(words)}".strip()


def _counted(words: Sequence[str]) -> str:
    """How many comparisons came to which verdict; "" if there are none."""
    told = [word for word in words if word != NOTHING]
    if not told:
        return ""
    counts = ", ".join(f"{told.count(word)} {word}" for word in VERDICTS)
    return f"Of {len(told)} comparisons: {counts}."


def _said(said: Mapping[str, str]) -> str:
    """One word where all tasks say the same."""
    words = set(said.values())
    if len(words) <= 1:
        return words.pop() if words else NOTHING
    return ", ".join(f"{task}: {word}" for task, word in said.items())


def levels(found: Sequence[Kept], axes: Sequence[str], retentions: Sequence[str]) -> str:
    """What settings lose against the uncompressed model, the tasks side by side."""
    notes, seen = Notes(), dict[tuple[str, ...], dict[str, str]]()
    tasks: dict[str, None] = {}
    for kept in found:
        cells = Cells(kept)
        for retention in retentions:
            for cell in cells.where(retention=retention):
                labels = tuple(cell.get(f"factor_{axis}") or NOTHING for axis in axes)
                if cell["factor_cell"]:  # outside of the axes
                    labels = cell["factor_cell"], *labels[1:]
                task = cell["factor_task"]
                tasks[task] = None
                seen.setdefault((retention, *labels), {})[task] = loss_text(cell, notes)
    rows = [[*key, *(here.get(task, NOTHING) for task in tasks)] for key, here in seen.items()]
    return f"{table(['retention', *axes, *tasks], rows)}\n\n{notes}".strip()


def by_retention(kept: Kept, axis: str, task: str | None = None) -> str:
    """Simple effects of an axis' labels on one task, the retentions side by side."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    retentions: dict[str, None] = {}
    for row in kept.effects:
        if row["axis"] == axis and not row["average"] and task in (None, row["task"]):
            key = ", ".join(json.loads(row["setting"]).values()), row["label"]
            rows.setdefault(key, {})[row["retention"]] = text(bounds(row, "difference"))
            retentions[row["retention"]] = None
    body = [[*key, *(here.get(each, NOTHING) for each in retentions)] for key, here in rows.items()]
    return table(["with", axis, *retentions], body)


def by_label(kept: Kept, axis: str) -> str:
    """What the labels of the only axis lose, the labels side by side."""
    cells, notes = Cells(kept), Notes()
    labels = cells.labels(axis)
    rows = [
        [
            retention,
            *(loss_text(cells.one(retention=retention, **{axis: x}), notes) for x in labels),
        ]
        for retention in sorted(cells.labels("retention"), key=float, reverse=True)
    ]
    [task] = cells.tasks
    head = ["retention", *(f"{axis} {label}" for label in labels)]
    return f"{asked(cells, task)}\n\n{table(head, rows)}\n\n{notes}".strip()
