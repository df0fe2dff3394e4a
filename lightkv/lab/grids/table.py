"""A results file in rows: each cell with its mean and its difference to its baseline."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

from lightkv.core.errors import ConfigError
from lightkv.lab.grids.store import Store
from lightkv.lab.outcomes import Cell, Outcome, comparable
from lightkv.lab.stats import Difference, holm, mean_interval, paired, scipy_stats


@dataclass(frozen=True)
class Line:
    """One cell.

    Attributes:
        cell: as stored.
        mean, low, high: mean score and its 95 % interval; None unless it is done.
        baseline: name of the cell it is compared with, or None.
        difference: to the baseline; None where one of the two is not done.
        holm: its McNemar's p, corrected for all tests of the file.
        samples: that it answered. `clusters`: pictures or clips that these are about.
        vanilla: difference to the uncompressed model on the same task; None for that model itself, where
            it has not answered, and where `summary` was not asked for losses.
        remark: what a reader has to know of the cell, such as stages that a label does not reach.
    """

    cell: Cell
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    baseline: str | None = None
    difference: Difference | None = None
    holm: float | None = None
    samples: int | None = None
    clusters: int | None = None
    vanilla: Difference | None = None
    remark: str = ""


def summary(
    store: Store, *, losses: bool = False, resamples: int = 10_000, seed: int = 0
) -> list[Line]:
    """All cells of a results file, in order, with paired statistics against their baselines.

    There is no difference where the two cells had other samples.

    Args:
        store: with the cells.
        losses: fill `vanilla` of lines, which takes as long again where the baseline is another cell.
        resamples, seed: of the bootstrap.

    Raises:
        StoreError: the file cannot be read.
        ConfigError: scipy is not installed.
    """
    scipy_stats()
    cells = store.cells()
    named = {cell.name: cell for cell in cells}
    plain = [cell for cell in cells if cell.status == "done" and not cell.spec["pipeline"]]
    against: dict[str, str] = store.meta.get("baselines", {})
    kept: dict[str, list[Outcome]] = {}

    def outcomes(cell: Cell) -> list[Outcome]:
        # Those of baselines are needed again and again.
        if cell.name in kept:
            return kept[cell.name]
        found = store.outcomes(cell.id)
        if cell.name in against.values() or cell in plain:
            kept[cell.name] = found
        return found

    def gap(base: Cell | None, cell: Cell) -> Difference | None:
        if base is None or base.status != "done" or not comparable(base, cell):
            return None
        with suppress(ConfigError):  # other samples must not cost the whole table
            return paired(outcomes(base), outcomes(cell), resamples=resamples, seed=seed)
        return None

    lines = []
    for cell in cells:
        base = named.get(against.get(cell.name, ""))
        if cell.status != "done":
            lines.append(Line(cell, baseline=base.name if base else None))
            continue
        mine, difference = outcomes(cell), gap(base, cell)
        bounds = mean_interval(mine, resamples=resamples, seed=seed)
        name = base.name if base else None
        counts = len(mine), len({outcome.cluster for outcome in mine})
        loss = None
        if losses:
            model = next((one for one in plain if one is not cell and comparable(one, cell)), None)
            loss = difference if model is base else gap(model, cell)
        lines.append(Line(cell, *bounds, name, difference, None, *counts, loss))
    gaps = (line.difference for line in lines)
    chances = holm([None if gap is None else gap.mcnemar_p for gap in gaps])
    told: dict[str, str] = store.meta.get("remarks", {})
    return [
        replace(line, holm=p, remark=told.get(line.cell.id, ""))
        for line, p in zip(lines, chances, strict=True)
    ]
