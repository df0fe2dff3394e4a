"""Figures with intervals as text, cells by their labels, and what stands where there is no figure.

All differences are in percent points, with intervals of 95 % as the lab computes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from kept import Kept, Row

from lightkv.lab.reporting.formatting import interval_text
from lightkv.lab.stats import Estimate

NOTHING = "–"
NEAR = 0.011
"""Achieved retentions farther from the wanted one are said."""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def bounds(row: Row, name: str, low: str = "", high: str = "") -> Estimate | None:
    """A figure of a row with its interval; None where it has none."""
    value = row.get(name)
    if value is None:
        return None
    least, most = row[low or f"{name}_low"], row[high or f"{name}_high"]
    least = -math.inf if least is None else least  # JSON has no infinity
    return Estimate(value, least, math.inf if most is None else most)


def loss_of(row: Row) -> Estimate | None:
    """The change against the uncompressed model."""
    return bounds(row, "vanilla_difference", "vanilla_low", "vanilla_high")


def text(found: Estimate | None) -> str:
    """`−1.2 [−2.4, +0.1]`, in points."""
    return NOTHING if found is None else interval_text(True, found, signed=True)


def verdict(first: Estimate | None, second: Estimate | None) -> str:
    """Whether an effect on the first model is one on the second.

    `yes`: both intervals leave zero out, on the same side. `opposite`: on different sides. Else
    `undecided`; a dash where one of the two is missing.
    """
    if first is None or second is None:
        return NOTHING
    if any(each.low <= 0.0 <= each.high for each in (first, second)):
        return "undecided"
    return "yes" if (first.value > 0.0) == (second.value > 0.0) else "opposite"


class Notes:
    """Reasons under a table, each with a number that the cells show."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def mark(self, reason: str) -> str:
        """A dash with the number of the reason."""
        number = self.numbers.setdefault(reason, len(self.numbers) + 1)
        return f"{NOTHING} ({number})"

    def __str__(self) -> str:
        return "\n".join(f"{number}. {reason}" for reason, number in self.numbers.items())


class Cells:
    """The cells of a grid, by their factors.

    A cell that was skipped as a repeat has the figures of the cell that computes the same, whose name is
    `twin` (of all others their own).
    """

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        named = {cell["name"]: cell for cell in kept.cells}
        pairs = [(cell, named.get(cell["repeats"] or "")) for cell in kept.cells]
        self.all = [{**(x or cell), **_own(cell), "twin": (x or cell)["name"]} for cell, x in pairs]

    def where(self, **factors: str) -> list[Row]:
        """Cells with these labels, in the grid's order."""
        return [
            cell
            for cell in self.all
            if all(cell.get(f"factor_{key}") == label for key, label in factors.items())
        ]

    def one(self, **factors: str) -> Row | None:
        """The only cell with these labels."""
        found = self.where(**factors)
        return found[0] if len(found) == 1 else None

    def labels(self, factor: str) -> list[str]:
        """Of a factor, in the grid's order."""
        found = (cell.get(f"factor_{factor}") for cell in self.all)
        return [label for label in dict.fromkeys(found) if label is not None]

    @property
    def tasks(self) -> list[str]:
        return self.labels("task")

    def vanilla(self, task: str) -> Row | None:
        """The uncompressed model."""
        return self.one(task=task, cell="vanilla")


def _own(cell: Row) -> Row:
    own = {key: value for key, value in cell.items() if key.startswith("factor_")}
    return {**own, "name": cell["name"]}


def why_not(cell: Row, notes: Notes) -> str:
    """What stands in place of the figures of a cell that has none."""
    if cell["status"] == "skipped":
        return notes.mark(cell["reason"])
    if cell["status"] == "failed":
        return notes.mark(f"failed: {cell['reason']}")
    return "not yet"


def loss_text(cell: Row | None, notes: Notes) -> str:
    """Change to the uncompressed model, and the retention where it is another one than wanted."""
    if cell is None:
        return NOTHING
    if cell["status"] != "done":
        return why_not(cell, notes)
    found = text(loss_of(cell))
    wanted = cell.get("factor_retention")
    if wanted and abs(cell["retention"] - float(wanted)) > NEAR:
        found += f" at {cell['retention']:.2f}"
    return found


def asked(cells: Cells, task: str) -> str:
    """What the uncompressed model scores, of how many questions."""
    cell = cells.vanilla(task)
    if cell is None or cell["status"] != "done":
        return "The uncompressed model has not answered yet."
    mean = bounds(cell, "mean")
    assert mean is not None
    return (
        f"Uncompressed: {interval_text(True, mean)} of {cell['samples']:,} questions "
        f"about {cell['clusters']:,} {task}."
    )
