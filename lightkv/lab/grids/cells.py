"""From a grid to cells: every combination built on its model before anything runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lightkv.core.contracts import ROLES
from lightkv.core.errors import ConfigError, LightKVError, UnknownNameError, nearest
from lightkv.core.pipeline.changes import over_overrides
from lightkv.core.pipeline.pipeline import PipelineSpec
from lightkv.core.plugins import build_component
from lightkv.lab.errors import GridError
from lightkv.lab.grids.expand import Combination, expand
from lightkv.lab.grids.normal import normal_form
from lightkv.lab.grids.schema import VANILLA, Grid
from lightkv.lab.outcomes import Cell, comparable
from lightkv.lab.subject import Subject
from lightkv.lab.tasks import Sample, Task, build_task

PROBE_FROM = 8
"""Pictures or clips among which different sizes are looked for, to measure retention on."""
Load = Callable[[str, str], Subject]


def plan_cells(grid: Grid, load: Load, there: Sequence[Cell] = ()) -> list[Cell]:
    """The cells of a grid, in order. Those that cannot run are skipped, with the reason.

    Args:
        grid: as read.
        load: model and dtype → subject.
        there: cells of the results that the grid extends; what one of them computes is a repeat.

    Raises:
        GridError: two cells of one name, or no cell that can run.
        LightKVError: a model or a task's data cannot be loaded; an unknown component.
    """
    combinations = expand(grid)
    for task in {json.dumps(c.task, sort_keys=True): c.task for c in combinations}.values():
        build_task(task).samples()  # broken data are found before a model is loaded
    by_model: dict[str, list[int]] = {}
    for number, combination in enumerate(combinations):
        by_model.setdefault(combination.model, []).append(number)
    cells: dict[int, Cell] = {}
    for model, numbers in by_model.items():
        planner = _Planner(grid, load(model, grid.dtype))
        for number in numbers:
            cells[number] = planner.cell(number, combinations[number])
        del planner  # one model in memory at a time
    found = without_repeats([cells[number] for number in range(len(cells))], there)
    _check_names(found)
    if not there:
        _check_some_run(found, {c.name for c in combinations if c.skipped is not None})
    return found


def _check_some_run(cells: Sequence[Cell], left_out: set[str]) -> None:
    """Refuse a grid without cells that run, and one that leaves only the uncompressed model to run
    although it asks for others.

    Args:
        cells: of the grid.
        left_out: names of those that a rule of the grid skips.
    """
    compressed = [c for c in cells if c.spec["pipeline"] and c.name not in left_out]
    for some, what in ((cells, "cell"), (compressed, "compressed cell")):
        if some and all(cell.status == "skipped" for cell in some):
            raise GridError(
                f"no {what} of the grid can run; the first: {some[0].reason}",
                field="grid",
                remedy="change what its reason names",
            )


class _Planner:
    """Builds the combinations of one model."""

    def __init__(self, grid: Grid, subject: Subject) -> None:
        self.grid = grid
        self.subject = subject
        self.tasks: dict[str, tuple[Task, str, list[Sample]]] = {}

    def cell(self, position: int, combination: Combination) -> Cell:
        task, fingerprint, probe = self._task(combination.task)
        pipeline, reason = combination.pipeline, combination.skipped
        if pipeline is not None:
            try:
                pipeline = seeded(pipeline, combination.seed)
            except ConfigError:
                if reason is None:  # a combination that makes no sense may be left out
                    raise
        if pipeline is not None and reason is None:
            try:
                pipeline = self._build(pipeline, combination.retention, probe)
            except UnknownNameError:
                raise  # a slip of the pen, not a finding
            except LightKVError as error:
                reason = str(error)
        spec = {
            "model": combination.model,
            "dtype": self.grid.dtype,
            "task": task.spec(),
            "data": fingerprint,
            "seed": combination.seed,
            "retention": combination.retention,
            "pipeline": pipeline or {},
        }
        status: Any = "pending" if reason is None else "skipped"
        identity = cell_id(spec) if reason is None else cell_id({**spec, "name": combination.name})
        return Cell(
            identity, position, combination.name, combination.factors, spec, status, reason or ""
        )

    def _build(
        self, pipeline: dict[str, Any], retention: float | None, probe: Sequence[Sample]
    ) -> dict[str, Any]:
        """The pipeline with explicit stages, tried on the probe."""
        session = self.subject.prepare(
            PipelineSpec.parse(pipeline),
            retention,
            probe=probe,
            equalise=self.grid.equalise == "achieved",
        )
        self.subject.try_on(session, probe)
        return session.pipeline.spec.to_data()

    def _task(self, spec: dict[str, Any]) -> tuple[Task, str, list[Sample]]:
        key = json.dumps(spec, sort_keys=True)
        if key not in self.tasks:
            task = build_task(spec)
            self.tasks[key] = task, task.fingerprint(), probe_of(task.samples())
        return self.tasks[key]


def first_about(samples: Sequence[Sample], most: int) -> list[Sample]:
    """The first sample about each of the first `most` pictures or clips."""
    first: dict[str, Sample] = {}
    for sample in samples:
        first.setdefault(sample.cluster, sample)
        if len(first) == most:
            break
    return list(first.values())


def probe_of(samples: Sequence[Sample]) -> list[Sample]:
    """The first sample, and those about the next few pictures or clips that have other sizes."""
    found: dict[Any, Sample] = {}
    for sample in first_about(samples, PROBE_FROM):
        found.setdefault(sample.seen().sizes, sample)
    return list(found.values())


def seeded(pipeline: dict[str, Any], seed: int) -> dict[str, Any]:
    """The pipeline with `seed` in every component that takes one and does not set it, also in those
    of the overrides of its schedule.

    Raises:
        ConfigError: a component that cannot be built.
    """
    return over_overrides({**pipeline, **_seeded(pipeline, seed)}, lambda own: _seeded(own, seed))


def _seeded(roles: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What is there of a pipeline's keys, or of overrides, its components with `seed`."""
    result = dict(roles)
    for role in ROLES:
        given = roles.get(role)
        if given is None:
            continue
        data = {"name": given} if isinstance(given, str) else dict(given)
        if "seed" not in data and "seed" in type(build_component(role, data)).model_fields:
            result[role] = {**data, "seed": seed}
    return result


def _check_names(cells: Sequence[Cell]) -> None:
    seen: set[str] = set()
    for cell in cells:
        if cell.name in seen:
            raise GridError(
                "two cells have the same name",
                field="cells",
                value=cell.name,
                remedy="give explicit cells names of their own",
            )
        seen.add(cell.name)


# -- baselines ------------------------------------------------------------------------------------


def baselines(grid: Grid, cells: Sequence[Cell]) -> dict[str, str]:
    """Name of a cell → name of the cell that it is compared with; only where there is one.

    A baseline of factors holds the cell's other factors fixed, so it may be another cell for each
    retention. Where the baseline was skipped because another cell computes the same, that cell is it.

    Raises:
        GridError: no cell has the baseline's name.
    """
    running = {computation(cell): cell for cell in cells if cell.status != "skipped"}

    def runs(cell: Cell) -> Cell:
        return running.get(computation(cell), cell)

    wanted = grid.baseline
    if wanted is None:
        wanted = {"cell": VANILLA} if grid.vanilla else {}
    if isinstance(wanted, str):
        named = {cell.name: runs(cell) for cell in cells}
        if wanted in named:
            base = named[wanted]
            return {
                cell.name: base.name
                for cell in cells
                if runs(cell) is not base and comparable(cell, base)
            }
        _check_baseline(wanted, cells)
        wanted = {"cell": wanted}
    found = {}
    for cell in cells:
        fixed = {**cell.factors, **wanted}
        near = {
            runs(other).name
            for other in cells
            if wanted and comparable(cell, other) and _fits(other, wanted, fixed)
        }
        if len(near) == 1 and near != {runs(cell).name}:
            found[cell.name] = near.pop()
    return found


def _fits(other: Cell, wanted: dict[str, str], fixed: dict[str, str]) -> bool:
    """Whether a cell has the wanted labels and agrees in all factors that both have."""
    mine = other.factors
    return all(mine.get(key) == label for key, label in wanted.items()) and all(
        fixed.get(key, label) == label for key, label in mine.items()
    )


def _check_baseline(wanted: str, cells: Sequence[Cell]) -> None:
    explicit = {cell.factors["cell"] for cell in cells if "cell" in cell.factors}
    if wanted not in explicit:
        raise GridError(
            "no cell has the name of the baseline",
            field="baseline",
            value=wanted,
            remedy=f"{nearest(wanted, [*explicit, *(cell.name for cell in cells)])}"
            "Name a cell, or give factor: label",
        )


REPEAT = "computes the same as "
"""Begins the reason of a cell that is skipped as a repeat; other skipped cells are nobody's repeat."""


def cell_id(spec: dict[str, Any]) -> str:
    """The same spec gives the same identity in every process."""
    text = json.dumps(spec, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def without_repeats(cells: Sequence[Cell], there: Sequence[Cell] = ()) -> list[Cell]:
    """Cells whose pipeline, model and task were there already are skipped (another seed of a
    pipeline that draws nothing, two labels that come to the same).

    Args:
        cells: of a grid.
        there: cells of results, which come first. One that the grid has too is no repeat of itself,
            unless the grid says less of it.
    """
    held = {cell.id: cell for cell in there if cell.status != "skipped"}
    first = {computation(cell): cell.id for cell in held.values()}
    names = {identity: cell.name for identity, cell in held.items()}
    found, taken = [], set[str]()
    for cell in cells:
        if cell.status == "skipped":
            found.append(cell)
            continue
        twin = first.setdefault(computation(cell), cell.id)
        if twin == cell.id and twin not in taken and _says_all_of(cell, held.get(twin)):
            taken.add(twin)
            names[twin] = cell.name
        else:
            identity = cell_id({**cell.spec, "name": cell.name})
            reason = f"{REPEAT}{names[twin]!r}"
            cell = replace(cell, id=identity, status="skipped", reason=reason)
        found.append(cell)
    return found


def _says_all_of(cell: Cell, held: Cell | None) -> bool:
    """Whether a cell has all labels of the one in the results, and so can take its place."""
    return held is None or held.factors.items() <= cell.factors.items()


def repeats(cells: Sequence[Cell]) -> dict[str, Cell]:
    """Identity of each cell that was skipped as a repeat → the cell that computes the same.

    Cells that a grid skips by a rule of its own are not in it, whatever they would compute.
    """
    first = {computation(cell): cell for cell in cells if cell.status != "skipped"}
    found = {}
    for cell in cells:
        if cell.status == "skipped" and cell.reason.startswith(REPEAT):
            twin = first.get(computation(cell))
            if twin is not None:
                found[cell.id] = twin
    return found


def computation(cell: Cell) -> str:
    """Equal for cells that compute the same, however it is written: see `normal_form`."""
    what = {key: cell.spec.get(key) for key in ("model", "task", "data")}
    return cell_id({**what, "pipeline": normal_form(cell.spec.get("pipeline") or {})})
