"""What must not have changed since a results file was begun, so that old and new cells compare."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from lightkv.core.errors import file_errors
from lightkv.lab.digests import model_digest
from lightkv.lab.errors import StoreError
from lightkv.lab.grids.store import Store
from lightkv.lab.grids.worker import versions
from lightkv.lab.outcomes import Cell
from lightkv.lab.tasks import build_task

DECISIVE = ("lightkv", "torch", "transformers")
"""Packages whose versions decide figures."""


def begun_with(cells: Iterable[Cell]) -> dict[str, Any]:
    """What a run's `meta` keeps for `check_unchanged`.

    Raises:
        StoreError: a checkpoint that cannot be read.
    """
    models = sorted({cell.spec["model"] for cell in cells if cell.status != "skipped"})
    return {"versions": versions(), "models": {model: _digest(model) for model in models}}


def check_unchanged(
    store: Store, cells: Sequence[Cell], retry_failed: bool = False, *, more: bool = False
) -> None:
    """Refuse to go on where what is still to be run would not compare with what is there.

    Versions and models matter only if there is something left to run.

    Args:
        store: the results.
        cells: that it holds.
        retry_failed: failed cells are run again.
        more: cells that the store does not hold yet will be run and compared with those that it does.

    Raises:
        StoreError: data, a checkpoint or a package has changed.
        TaskError: the data of a task cannot be read any more.
    """
    _check_data(store, cells)
    left = [c for c in cells if c.status == "pending" or (retry_failed and c.status == "failed")]
    if more:
        left = list(cells)
    if left:
        _check_versions(store)
    known = store.meta.get("models", {})  # older files have none
    for model in sorted({cell.spec["model"] for cell in left}):
        if known.get(model, "") and _digest(model) != known[model]:
            raise _changed(store, f"the checkpoint {model} has changed")


def _check_data(store: Store, cells: Sequence[Cell]) -> None:
    seen: dict[str, str] = {}
    for cell in cells:
        key = json.dumps(cell.spec["task"], sort_keys=True)
        if cell.status != "skipped" and key not in seen:
            seen[key] = build_task(cell.spec["task"]).fingerprint()
        if cell.status != "skipped" and seen[key] != cell.spec["data"]:
            task = cell.factors.get("task", cell.spec["task"]["name"])
            raise _changed(
                store,
                f"the task's data have changed ({task}: their digest was "
                f"{cell.spec['data'] or 'none'} and is {seen[key] or 'none'})",
            )


def _check_versions(store: Store) -> None:
    before, now = store.meta.get("versions", {}), versions()
    other = [name for name in DECISIVE if name in before and before[name] != now[name]]
    if other:
        changes = ", ".join(f"{name} was {before[name]} and is {now[name]}" for name in other)
        raise _changed(
            store, f"versions have changed ({changes})", ", or install the versions of then"
        )


def _changed(store: Store, what: str, more: str = "") -> StoreError:
    return StoreError(
        f"{what} since these results were begun",
        field="--out",
        value=str(store.path),
        remedy=f"name another file, so that old and new results stay apart{more}",
    )


def _digest(model: str) -> str:
    with file_errors(StoreError, "read the checkpoint", "model", model):
        return model_digest(model)
