"""From a grid to its combinations: the product of what varies, and what it is called."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from lightkv.lab.errors import GridError
from lightkv.lab.grids.changes import changed, label_text
from lightkv.lab.grids.schema import VANILLA, Grid
from lightkv.lab.tasks import build_task, tasks


@dataclass(frozen=True)
class Combination:
    """One cell before it is built on its model.

    Attributes:
        name, factors: as of a cell.
        model: source to load.
        task: spec.
        seed: of random components.
        pipeline: as plain data; None for the uncompressed model.
        retention: wanted; None leaves the pipeline's.
        skipped: why the grid leaves it out, or None.
        changes: that its labels, or its explicit cell, make of the base, in order.
    """

    name: str
    factors: dict[str, str]
    model: str
    task: dict[str, Any]
    seed: int
    pipeline: dict[str, Any] | None
    retention: float | None
    skipped: str | None
    changes: tuple[dict[str, Any], ...] = ()


def expand(grid: Grid) -> list[Combination]:
    """All combinations of a grid, in order: vanilla, the product of the axes, the explicit cells.

    Raises:
        GridError: there are none.
    """
    compressed: list[Combination] = []
    for one in _Expansion(grid).compressed():
        if one not in compressed:  # a cell that sets its task is not crossed with the grid's tasks
            compressed.append(one)
    found = [*_Expansion(grid).vanilla(compressed), *compressed]
    if not found:
        raise GridError(
            "the grid has no cells",
            field="grid",
            remedy="give axes, cells, retention, or vanilla: true",
        )
    return found


class _Expansion:
    """The combinations of one grid."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.models = grid.models()
        self.tasks = grid.tasks()

    def vanilla(self, compressed: list[Combination]) -> Iterator[Combination]:
        """The uncompressed model on each model and task that a combination has.

        Where a task is relative to it, it runs even if the grid leaves it out: nothing else could.
        """
        needed = dict[tuple[str, str], bool]()
        for one in compressed:
            key = one.factors["model"], one.factors["task"]
            relative = tasks()[one.task["name"]].needs_reference and one.skipped is None
            needed[key] = needed.get(key, False) or relative
        for (model, task), always in needed.items():
            if self.grid.vanilla or always:
                found = self._vanilla({"model": model, "task": task})
                yield replace(found, skipped=None) if always else found

    def compressed(self) -> Iterator[Combination]:
        """The product of the axes, then the explicit cells; some may be there twice."""
        grid = self.grid
        settings = [{"model": model, "task": task} for model in grid.model for task in grid.task]
        product = list(itertools.product(*grid.axes.values()))
        alone = not grid.axes and bool(grid.cells) and grid.retention is None
        for setting in settings:
            for retention, seed in itertools.product(grid.retention or (None,), grid.seeds):
                common = {"retention": retention, "seed": seed}
                for labels in [] if alone else product:
                    factors = dict(zip(grid.axes, labels, strict=True))
                    changes = [grid.axes[axis][label] for axis, label in factors.items()]
                    yield self._combination(factors, changes, {**setting, **common})
        for setting, cell in itertools.product(settings, grid.cells):
            wanted = (cell["retention"],) if "retention" in cell else grid.retention or (None,)
            for retention, seed in itertools.product(wanted, grid.seeds):
                change = {key: value for key, value in cell.items() if key != "name"}
                common = {"retention": retention, "seed": seed}
                yield self._combination({"cell": cell["name"]}, [change], {**setting, **common})

    def _vanilla(self, setting: dict[str, str]) -> Combination:
        factors = {"cell": VANILLA, **setting}
        return Combination(
            self._name(factors),
            factors,
            self.models[setting["model"]],
            self.tasks[setting["task"]],
            self.grid.seeds[0],
            None,
            None,
            self._skipped(factors),
        )

    def _combination(
        self, factors: dict[str, str], changes: list[dict[str, Any]], setting: dict[str, Any]
    ) -> Combination:
        plain = {key: value for key, value in setting.items() if value is not None}
        pipeline = dict(self.grid.base)
        for change in changes:
            pipeline = changed(pipeline, change)
            if "model" in change:
                plain["model"] = _label(self.models, change["model"])
            if "task" in change:
                plain["task"] = _label(self.tasks, build_task(change["task"]).spec())
            for key in ("retention", "seed"):
                if key in change:
                    plain[key] = change[key]
        factors = {**factors, **{key: label_text(value) for key, value in plain.items()}}
        return Combination(
            name=self._name(factors),
            factors=factors,
            model=self.models[plain["model"]],
            task=self.tasks[plain["task"]],
            seed=int(plain["seed"]),
            pipeline=pipeline,
            retention=plain.get("retention"),
            skipped=self._skipped(factors),
            changes=tuple(changes),
        )

    def _skipped(self, factors: dict[str, str]) -> str | None:
        return next((skip.reason for skip in self.grid.skip if skip.matches(factors)), None)

    def _name(self, factors: dict[str, str]) -> str:
        """What varies, in words that are unique in the grid."""
        parts = [factors["cell"]] if "cell" in factors else []
        parts += [f"{axis}={factors[axis]}" for axis in self.grid.axes if axis in factors]
        several = {"model": len(self.models) > 1, "task": len(self.tasks) > 1}
        several |= {"retention": True, "seed": len(self.grid.seeds) > 1}
        for key in ("model", "task", "retention", "seed"):
            if several[key] and key in factors:
                parts.append(f"{key}={factors[key]}")
        return " ".join(parts) or self.grid.name


def _label(sources: Mapping[str, Any], source: Any) -> str:
    return next(label for label, value in sources.items() if value == source)
