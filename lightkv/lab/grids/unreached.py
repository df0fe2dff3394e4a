"""Stages that a change of a role does not reach: their overrides keep a component of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightkv.core.contracts import ROLES
from lightkv.core.pipeline.changes import is_partial, name_of, overrides_of
from lightkv.lab.grids.expand import expand
from lightkv.lab.grids.schema import Grid
from lightkv.lab.outcomes import Cell

Changes = Sequence[Mapping[str, Any]]


def remarks(grid: Grid, cells: Sequence[Cell]) -> dict[str, str]:
    """Identity of a cell → what a reader has to know of it; only of cells that will run.

    Args:
        grid: as read.
        cells: that `plan_cells` made of it.
    """
    there = zip(expand(grid), cells, strict=True)
    found = {
        cell.id: unreached(cell.spec["pipeline"], combination.changes)
        for combination, cell in there
        if cell.status != "skipped"
    }
    return {identity: text for identity, text in found.items() if text}


def unreached(pipeline: Mapping[str, Any], changes: Changes) -> str:
    """What a reader has to know of a changed pipeline; "" where the changes reach every stage.

    Args:
        pipeline: as plain data, with all changes; its stages listed, or a recipe.
        changes: of labels, in the order in which they were made.
    """
    schedule = pipeline.get("schedule")
    overrides = overrides_of(schedule)
    last = len(overrides) - 1 if isinstance(schedule, Mapping) else None
    return "; ".join(
        f"the overrides of {_stages(numbers, last)} keep their own {role} ({names})"
        for role, change in _of_roles(changes)
        for numbers, names in _keeping(overrides, role, change)
    )


def _of_roles(changes: Changes) -> Iterator[tuple[str, Any]]:
    """Role → what the last of several changes makes of it; a new base begins anew."""
    found: dict[str, Any] = {}
    for change in changes:
        found = {} if "base" in change else found
        for role in ROLES:
            if role not in change:
                continue
            new, old = change[role], found.get(role)
            found[role] = {**old, **new} if is_partial(new) and isinstance(old, Mapping) else new
    yield from found.items()


def _keeping(overrides: Sequence[Any], role: str, change: Any) -> Iterator[tuple[list[int], str]]:
    """Places of the overrides that do not hold a change, and the names of what they hold."""
    own = {
        number: each[role]
        for number, each in enumerate(overrides)
        if isinstance(each, Mapping) and role in each and not _holds(each[role], change)
    }
    if own:
        names = dict.fromkeys(name_of(component) or "none" for component in own.values())
        yield list(own), ", ".join(names)


def _holds(component: Any, change: Any) -> bool:
    """Whether a component is what a change asks for, as far as the change says; a grid gives seeds."""
    full = component if isinstance(component, Mapping) else {"name": component}
    if isinstance(change, Mapping):
        return all(full.get(key) == value for key, value in change.items())
    return {key: value for key, value in full.items() if key != "seed"} == {"name": change}


def _stages(numbers: Sequence[int], last: int | None) -> str:
    """`stages 2, 3`; of a recipe the last entry is for all stages from there on."""
    texts = [f"{number + 1} and later" if number == last else str(number + 1) for number in numbers]
    return f"stage{'s' if len(numbers) > 1 else ''} {', '.join(texts)}"
