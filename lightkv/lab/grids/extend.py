"""A grid that grows: the cells of another grid join those of a results file, and what is done stays.

A cell is known by the hash of what decides its result, so cells that both grids have are the same cell,
under whatever name. A label must go on meaning what it meant, because reports average over labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lightkv.lab.errors import StoreError
from lightkv.lab.grids.cells import baselines
from lightkv.lab.grids.differing import difference
from lightkv.lab.grids.schema import Grid
from lightkv.lab.grids.store import Store
from lightkv.lab.outcomes import Cell

_WHOLE = ("base", "dtype", "equalise")
"""Keys of a grid that decide what all of its labels come to."""


def check_labels(store: Store, grid: Grid) -> None:
    """Refuse a grid whose labels mean something else than in the grids that a file holds.

    Raises:
        StoreError: with the first that differs, as it was and as it is.
    """
    now = grid.plain()
    for before in store.grids():
        if "search" in before:
            raise _refused(store, "the file holds a search and no grid")
        for key in _WHOLE:
            _check_equal(store, key, before.get(key), now[key])
        then, found = _meanings(Grid.parse(before)), _meanings(grid)
        for label in sorted(then.keys() & found.keys()):
            _check_equal(store, ", ".join(label), then[label], found[label])


def _meanings(grid: Grid) -> dict[tuple[str, ...], Any]:
    """Key and label → what it stands for, of models, tasks, axes and explicit cells."""
    data, found = grid.plain(), dict[tuple[str, ...], Any]()
    for key, labels in (("model", grid.models()), ("task", grid.tasks())):
        found |= {(key, label): value for label, value in labels.items()}
    for axis, changes in data["axes"].items():
        found |= {("axes", axis, label): change for label, change in changes.items()}
    return found | {("cells", cell["name"]): cell for cell in data["cells"]}


def _check_equal(store: Store, where: str, then: Any, now: Any) -> None:
    if then != now:
        raise _refused(store, f"{where}: {difference(then, now)}")


def merged(store: Store, there: Sequence[Cell], planned: Sequence[Cell]) -> list[Cell]:
    """The cells of a file and of another grid: first those that only the file has.

    A cell of both keeps its results and takes the other grid's name, place and factors. One that the
    file has done and the other grid leaves out is kept.

    Raises:
        StoreError: a cell of the file and another one of the grid have one name, or equal labels.
    """
    own = {cell.id: cell for cell in there if cell.status != "skipped"}
    again = {cell.id for cell in planned}
    kept = [cell for cell in own.values() if cell.id not in again]
    for cell in kept:
        _check_apart(store, cell, planned)
    names = {cell.name for cell in kept}
    labels = [cell.factors for cell in kept]
    joined = [
        cell
        for cell in planned
        if cell.status != "skipped" or (cell.name not in names and cell.factors not in labels)
    ]
    left_out = [
        cell
        for cell in there
        if cell.status == "skipped" and not any(_stands_for(new, cell) for new in [*joined, *kept])
    ]
    first = sorted([*kept, *left_out], key=lambda cell: cell.position)
    found = []
    for cell in [*first, *joined]:
        old = own.get(cell.id)
        if old is not None and cell.status != "skipped":
            cell = replace(old, name=cell.name, factors=cell.factors)
        found.append(replace(cell, position=len(found)))
    return found


def _stands_for(new: Cell, skipped: Cell) -> bool:
    """Whether a cell is the one that was skipped, or a grid with more axes says more of it."""
    return new.name == skipped.name or skipped.factors.items() <= new.factors.items()


def _check_apart(store: Store, cell: Cell, planned: Sequence[Cell]) -> None:
    for new in planned:
        if new.status == "skipped" or (new.name != cell.name and new.factors != cell.factors):
            continue
        raise _refused(store, f"cell {new.name!r}: {difference(cell.spec, new.spec)}")


def merged_baselines(
    grid: Grid,
    before: Mapping[str, str],
    there: Sequence[Cell],
    planned: Sequence[Cell],
    cells: Sequence[Cell],
) -> dict[str, str]:
    """Name of a cell → name of its baseline: as the grid says; as before, of cells that it has not.

    Args:
        grid: that extends the results.
        before: what this gave until now, by the names of then.
        there, planned, cells: of the file until now, of the grid, and both merged.

    Raises:
        GridError: no cell has the baseline's name.
    """
    now = {cell.id: cell.name for cell in cells}
    renamed = {cell.name: now[cell.id] for cell in there if cell.id in now}
    old = {renamed[a]: renamed[b] for a, b in before.items() if a in renamed and b in renamed}
    mine = {cell.id for cell in planned}
    kept = {cell.name for cell in cells if cell.id not in mine}
    found = baselines(grid, cells)
    said = {name: base for name, base in found.items() if name not in kept or name not in old}
    return {**{name: base for name, base in old.items() if name in kept}, **said}


def _refused(store: Store, what: str) -> StoreError:
    return StoreError(
        f"the grid cannot extend these results: {what}",
        field="--extend",
        value=str(store.path),
        remedy="give what differs another label, or name another file",
    )
