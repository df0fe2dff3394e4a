"""What a label of a grid may change, and what that makes of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lightkv.core.contracts import ROLES
from lightkv.core.errors import check_known
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe, resolve_spec
from lightkv.core.strict import LEAST_SEED, MOST_SEED
from lightkv.lab.errors import GridError

PIPELINE_KEYS = (*ROLES, "proportional", "schedule")
CHANGES = ("base", *PIPELINE_KEYS, "retention", "model", "task", "seed")
"""What a label of an axis, or an explicit cell, may set."""


def changed(pipeline: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """A pipeline with what a label changes.

    A component without `name` changes parameters of the one that is there; so does a schedule that
    is a mapping.
    """
    result = dict(pipeline)
    if "base" in change:
        result = base_data(change["base"])
    for key in PIPELINE_KEYS:
        if key not in change:
            continue
        old, new = result.get(key), change[key]
        partial = isinstance(new, Mapping) and (key == "schedule" or "name" not in new)
        if partial and isinstance(old, Mapping):
            new = {**old, **new}
        elif partial and key in ROLES and isinstance(old, str):
            new = {"name": old, **new}
        result[key] = new
    return result


def base_data(source: Any, folder: Path | None = None) -> dict[str, Any]:
    """A pipeline written out as plain data."""
    if isinstance(source, str) and source.endswith((".yaml", ".yml")):
        source = (folder or Path()) / source
    spec = resolve_spec(source)
    return spec_data(spec)


def spec_data(spec: PipelineSpec) -> dict[str, Any]:
    """A pipeline as plain data without its defaults."""
    data: dict[str, Any] = yaml.safe_load(spec.to_yaml())
    if isinstance(spec.schedule, Recipe):
        given = spec.schedule.model_dump(mode="json", exclude_defaults=True)
        data["schedule"] = {"retention": spec.schedule.retention, **given}
    return data


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
    kinds: dict[str, tuple[Any, str]] = {
        **dict.fromkeys(ROLES, (str | Mapping | None, "a component is a name or a mapping")),
        "retention": (int | float | None, "a retention is a number"),
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
