"""What a grid's YAML may say in short, written out; and what a label does to a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from lightkv.core.errors import nearest
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe, resolve_spec
from lightkv.core.strict import LEAST_SEED, MOST_SEED
from lightkv.lab.errors import GridError
from lightkv.lab.tasks import build_task

ROLES = ("partitioner", "scorer", "matcher", "aggregator", "positions")
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


# -- reading --------------------------------------------------------------------------------------


def label_text(value: Any) -> str:
    """A label as text: YAML reads `on` and `off` as truth values, and numbers as numbers."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def normal_form(data: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """Short forms written out: one model, one task, a preset's name, one retention."""
    data["model"] = _labelled("model", data.get("model", "demo"), str, lambda m: Path(m).name or m)
    data["task"] = _labelled(
        "task",
        data.get("task", "scenes"),
        lambda t: build_task(_placed(t, folder)).spec(),
        lambda t: t["name"],
    )
    data["base"] = base_data(data.get("base", "lightkv"), folder)
    if isinstance(data.get("retention"), int | float):
        data["retention"] = [data["retention"]]
    axes = data.get("axes") or {}
    if not isinstance(axes, Mapping) or not all(isinstance(v, Mapping) for v in axes.values()):
        raise GridError(
            "axes are a mapping: name → label → what it changes",
            field="axes",
            value=axes if not isinstance(axes, Mapping) else None,
            remedy="such as {guidance: {prompt: {}, uniform: {scorer: uniform}}}",
        )
    data["axes"] = {
        axis: {
            label: _based(f"axes, {axis}, {label}", change or {}, folder)
            for label, change in _in_words(f"axes, {axis}", labels).items()
        }
        for axis, labels in _in_words("axes", axes).items()
    }
    cells = data.get("cells") or ()
    if not isinstance(cells, list | tuple):
        raise GridError(
            "cells are a list",
            field="cells",
            value=cells,
            remedy="such as [{name: fastv, base: fastv}]",
        )
    data["cells"] = [_based(f"cells[{number}]", cell, folder) for number, cell in enumerate(cells)]
    if isinstance(data.get("baseline"), Mapping):
        data["baseline"] = {str(k): label_text(v) for k, v in data["baseline"].items()}
    return {key: value for key, value in data.items() if value is not None or key == "retention"}


def _in_words(where: str, labels: Mapping[Any, Any]) -> dict[str, Any]:
    """A mapping with its labels as text; two of one text, as `on` and "on", are an error."""
    found: dict[str, Any] = {}
    for label, value in labels.items():
        if label_text(label) in found:
            raise GridError("two labels are the same", field=where, value=label_text(label))
        found[label_text(label)] = value
    return found


def _placed(task: Any, folder: Path | None) -> Any:
    """A task whose path, or whose inner task's, is relative to the grid's folder."""
    if folder is None or not isinstance(task, Mapping):
        return task
    found = {key: _placed(value, folder) if key == "of" else value for key, value in task.items()}
    if isinstance(found.get("path"), str):
        found["path"] = str(folder / Path(found["path"]).expanduser())
    return found


def _based(where: str, change: Any, folder: Path | None) -> Any:
    """A change whose pipeline is written out, so that the grid holds everything."""
    check_change(where, change, ("name", *CHANGES))
    change = dict(change)
    if "base" in change:
        change["base"] = base_data(change["base"], folder)
    if "task" in change:
        change["task"] = build_task(_placed(change["task"], folder)).spec()
    return change


def _labelled(key: str, given: Any, read: Any, name: Any) -> dict[str, Any]:
    """One value, a list of values or label → value, as label → value."""
    if isinstance(given, Mapping) and "name" not in given:
        found = {label: read(value) for label, value in _in_words(key, given).items()}
    else:
        values = [read(v) for v in (given if isinstance(given, list | tuple) else [given])]
        found = {name(value): value for value in values}
        if len(found) < len(values):
            raise GridError(
                "two entries have the same name",
                field=key,
                value=", ".join(name(value) for value in values),
                remedy="give a mapping of labels to them",
            )
    if not found:
        raise empty_product(key)
    return found


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
        if key not in known:
            raise GridError(
                "a cell has nothing of that name to change",
                field=where,
                value=key,
                remedy=f"{nearest(str(key), known)}There are: {', '.join(known)}",
            )
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


def empty_product(key: str) -> GridError:
    """The error for a factor without values."""
    return GridError(
        "the product is empty: there are no values",
        field=key,
        remedy="give at least one, or leave the key out",
    )


def grid_error(error: ValidationError) -> GridError:
    """The first of pydantic's errors, as one of the grid."""
    first = error.errors()[0]
    where = ", ".join(str(part) for part in first["loc"])
    return GridError(
        str(first["msg"]).removeprefix("Value error, "),
        field=f"grid, {where}",
        value=first.get("input"),
        remedy="docs/lab.md lists keys and their values",
    )
