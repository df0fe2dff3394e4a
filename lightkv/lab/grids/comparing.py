"""Results files beside one another: cells that answer the same samples, paired across files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lightkv.core.errors import ConfigError, check_known
from lightkv.lab.errors import StoreError
from lightkv.lab.grids.differing import difference
from lightkv.lab.grids.flat import studies
from lightkv.lab.grids.normal import normal_form
from lightkv.lab.grids.store import Store
from lightkv.lab.outcomes import Cell, Outcome, comparable, repeats_with_another_seed
from lightkv.lab.stats import Difference, holm, paired, scipy_stats, unpaired

How = Literal["spec", "computation", "labels", "named"]
"""How the base of a cell was found: the same spec, the same computation, the same labels, or by `to`."""


@dataclass(frozen=True)
class Pair:
    """A cell of one study, and the cell of the first that it is compared with.

    Attributes:
        study: name of the cell's file.
        cell, base: of that file, and of the first one.
        found: how the base was found.
        same: whether nothing in their specs differs: other answers then come of versions or machines.
        difference: of the cell to its base, paired by sample; of two means where the samples are others.
        alike: samples with the same answer, word by word; None where the samples are others.
        holm: McNemar's p, corrected for all tests of the comparison.
    """

    study: str
    cell: Cell
    base: Cell
    found: How
    same: bool
    difference: Difference
    alike: int | None
    holm: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Several results files against the first.

    Attributes:
        studies: their names, the first one first.
        pairs: in the order of the files and their cells.
        alone: name of a file → names of its finished cells that were not compared.
        differs: what else differs between the first and another file: versions, checkpoints, machines.
    """

    studies: tuple[str, ...]
    pairs: tuple[Pair, ...]
    alone: dict[str, tuple[str, ...]]
    differs: tuple[str, ...]


def compare(results: Sequence[Store | str | Path], *, to: str | None = None) -> Comparison:
    """Compare the cells of results files with those of the first.

    A cell is compared with the cell of the first file that has the same spec; else with the one that
    computes the same; else with the one that has the same labels. Both have the model, the task and the
    data in common: then samples are pairs. Where the first file has no such cell, one whose task is
    drawn with another seed alone is its base: then the difference is that of two independent means.

    Args:
        results: two files or more, as paths or open stores.
        to: name of a cell of the first file that all cells, also its own, are compared with instead.

    Raises:
        ConfigError: one file only, no finished cell of that name, or no scipy.
        StoreError: a file cannot be read, two have one name, or nothing in them can be compared.
    """
    scipy_stats()
    if len(results) < 2:
        raise ConfigError(
            "there is nothing to compare with",
            field="results",
            value=len(results),
            remedy="give two results files or more; `lightkv ablate --table` has those of one",
        )
    with ExitStack() as opened:
        stores = [
            each if isinstance(each, Store) else opened.enter_context(Store.open(each))
            for each in results
        ]
        names = studies(stores)
        done = [[cell for cell in store.cells() if cell.status == "done"] for store in stores]
        bases = _Bases(stores[0], done[0], to)
        found: list[Pair] = []
        for number, (name, store) in enumerate(zip(names, stores, strict=True)):
            if number or to is not None:
                found += _pairs(name, store, done[number], bases, own=number == 0)
        if not found:
            raise _nothing(stores, done)
        chances = holm([pair.difference.mcnemar_p for pair in found])
        pairs = [replace(pair, holm=p) for pair, p in zip(found, chances, strict=True)]
        differs = [
            text
            for name, store, cells in zip(names[1:], stores[1:], done[1:], strict=True)
            for text in _differing(names[0], stores[0], done[0], name, store, cells)
        ]
    return Comparison(tuple(names), tuple(pairs), _alone(names, done, pairs), tuple(differs))


class _Bases:
    """Cells of the first file, to be looked up by cells of others."""

    def __init__(self, store: Store, cells: Sequence[Cell], to: str | None) -> None:
        self._store = store
        self._cells = cells
        self._to: Cell | None = None
        self._kept: dict[str, list[Outcome]] = {}
        if to is not None:
            check_known(
                ConfigError, "no finished cell has that name", "to", to, [c.name for c in cells]
            )
            self._to = next(cell for cell in cells if cell.name == to)

    def of(self, cell: Cell) -> tuple[Cell, How] | None:
        """What a cell is compared with, and how that was found; of the same samples if there is one."""
        for alike in (comparable, repeats_with_another_seed):
            near = [base for base in self._cells if alike(base, cell)]
            if self._to is not None and self._to in near:
                return self._to, "named"
            found = None if self._to is not None else _nearest(near, cell)
            if found is not None:
                return found
        return None

    def outcomes(self, base: Cell) -> list[Outcome]:
        """Of a cell of the first file, read once."""
        if base.id not in self._kept:
            self._kept[base.id] = self._store.outcomes(base.id)
        return self._kept[base.id]


def _nearest(near: Sequence[Cell], cell: Cell) -> tuple[Cell, How] | None:
    """Of cells of the same model and task the one that is most like a cell, and how."""
    same = normal_form(cell.spec["pipeline"])
    tests: tuple[tuple[How, Callable[[Cell], bool]], ...] = (
        ("spec", lambda base: base.id == cell.id),
        ("computation", lambda base: bool(normal_form(base.spec["pipeline"]) == same)),
        ("labels", lambda base: base.factors == cell.factors),
    )
    return next(((base, how) for how, test in tests for base in near if test(base)), None)


def _pairs(
    name: str, store: Store, cells: Sequence[Cell], bases: _Bases, own: bool
) -> Iterator[Pair]:
    for cell in cells:
        base, how = bases.of(cell) or (None, "named")
        if base is None or (own and base.id == cell.id):
            continue
        before, now = bases.outcomes(base), store.outcomes(cell.id)
        if not comparable(base, cell):
            yield Pair(name, cell, base, how, False, unpaired(before, now), None)
            continue
        answers = {outcome.sample: outcome.answer for outcome in before}
        if answers.keys() != {outcome.sample for outcome in now}:
            continue  # a search ends some cells early
        alike = sum(answers[outcome.sample] == outcome.answer for outcome in now)
        yield Pair(name, cell, base, how, base.spec == cell.spec, paired(before, now), alike)


def _alone(
    names: Sequence[str], done: Sequence[Sequence[Cell]], pairs: Sequence[Pair]
) -> dict[str, tuple[str, ...]]:
    used = {(pair.study, pair.cell.id) for pair in pairs}
    used |= {(names[0], pair.base.id) for pair in pairs}
    found = {
        name: tuple(cell.name for cell in cells if (name, cell.id) not in used)
        for name, cells in zip(names, done, strict=True)
    }
    return {name: cells for name, cells in found.items() if cells}


def _differing(
    first: str, store: Store, cells: Sequence[Cell], name: str, other: Store, others: Sequence[Cell]
) -> Iterator[str]:
    """What differs beside the cells, from the first file to another."""
    before, now = store.meta.get("versions", {}), other.meta.get("versions", {})
    for key in dict.fromkeys([*before, *now]):
        if key != "threads" and before.get(key) != now.get(key):
            yield f"{key}: {before.get(key, 'unknown')} in {first}, {now.get(key, 'unknown')} in {name}"
    digests, theirs = store.meta.get("models", {}), other.meta.get("models", {})
    for model in digests.keys() & theirs.keys():
        if digests[model] != theirs[model]:
            yield f"the files of the checkpoint {model} differ between {first} and {name}"
    for what, text in (("machine", _machines), ("threads", _threads)):
        mine, yours = text(cells), text(others)
        if mine and yours and mine != yours:
            yield f"{what}: {mine} in {first}, {yours} in {name}"


def _machines(cells: Sequence[Cell]) -> str:
    return "; ".join(dict.fromkeys(c.measured.machine for c in cells if c.measured is not None))


def _threads(cells: Sequence[Cell]) -> str:
    return ", ".join(dict.fromkeys(c.versions["threads"] for c in cells if "threads" in c.versions))


def _nothing(stores: Sequence[Store], done: Sequence[Sequence[Cell]]) -> StoreError:
    """Says of the first two cells what keeps them apart."""
    empty = [store.path.name for store, cells in zip(stores, done, strict=True) if not cells]
    if empty:
        why = f"{', '.join(empty)} has no finished cell"
    else:
        one, other = (
            {key: cells[0].spec.get(key) for key in ("model", "task", "data")} for cells in done[:2]
        )
        alike = one == other
        why = "other cells and labels" if alike else difference(one, other)
    return StoreError(
        f"the studies have no cells that can be compared: {why}",
        field="results",
        value=", ".join(str(store.path) for store in stores),
        remedy="give studies of the same model, task and data (another seed of the task will do); --to "
        "names a cell to compare all with",
    )
