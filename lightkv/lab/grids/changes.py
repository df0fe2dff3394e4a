"""What a label of a grid may change, and what that makes of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightkv.core.contracts import ROLES
from lightkv.core.errors import check_known
from lightkv.core.pipeline import changes
from lightkv.core.pipeline.changes import PIPELINE_KEYS
from lightkv.core.pipeline.pipeline import resolve_spec
from lightkv.core.pipeline.solver import check_one_share
from lightkv.core.set_values import named
from lightkv.core.strict import LEAST_SEED, MOST_SEED
from lightkv.lab.errors import GridError

CHANGES = ("base", *PIPELINE_KEYS, "retention", "model", "task", "seed")
"""What a label of an axis, or an explicit cell, may set."""


def changed(pipeline: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """A pipeline with what a label changes, of its `base` where it names one."""
    return changes.changed(base_data(change["base"]) if "base" in change else pipeline, change)


def base_data(source: Any, folder: Path | None = None) -> dict[str, Any]:
    """A pipeline written out as plain data."""
    return resolve_spec(source, folder).to_data()


def written_out(key: str, name: str, folder: Path | None = None) -> dict[str, Any]:
    """What a name in a study stands for: a preset or a pipeline file as `base`, else `{name: …}`."""
    return base_data(name, folder) if key == "base" else named(key, name)


def label_text(value: Any) -> str:
    """A label as text: YAML reads `on` and `off` as truth values, and numbers as numbers."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def check_change(where: str, change: Any, known: tuple[str, ...]) -> None:
    """Refuse keys that no cell can change, and values that none can have."""
    if not isinstance(change, Mapping):
        raise GridError(
            "what changes is a mapping",
            field=where,
            value=change,
            remedy=f"its keys are: {', '.join(known)}",
        )
    for key in change:
        check_known(GridError, "a cell has nothing of that name to change", where, key, known)
    _check_values(where, change)


def _check_values(where: str, change: Mapping[str, Any]) -> None:
    """Refuse kinds of values that would fail later, where no one knows the key any more."""
    if "seed" in change:
        check_seed(f"{where}, seed", change["seed"])
    if change.get("retention") is not None:
        check_one_share(change["retention"], f"{where}, retention", GridError)
    kinds: dict[str, tuple[Any, str]] = {
        **dict.fromkeys(ROLES, (str | Mapping | None, "a component is a name or a mapping")),
        "model": (str, "a model is a text"),
    }
    for key, value in change.items():
        kind, what = kinds.get(key, (object, ""))
        if not isinstance(value, kind) or (key in kinds and value is True):
            raise GridError(
                what, field=f"{where}, {key}", value=value, remedy="docs/lab.md shows some"
            )
        for inner in value if isinstance(value, Mapping) else ():
            if not isinstance(inner, str):
                raise GridError(
                    "the name of a parameter is a text",
                    field=f"{where}, {key}",
                    value=inner,
                    remedy="put it in quotes: YAML reads on and off as truth values",
                )


def check_seed(where: str, seed: Any) -> None:
    """Refuse what torch takes for no seed."""
    whole = isinstance(seed, int) and not isinstance(seed, bool)
    if not whole or not LEAST_SEED <= seed <= MOST_SEED:
        raise GridError(
            "a seed is a whole number of at most 64 bits", field=where, value=seed, remedy="try 0"
        )
