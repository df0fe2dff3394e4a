"""What a label of a grid may change, and what that makes of a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from lightkv.core.contracts import ROLES
from lightkv.core.errors import check_known
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe, resolve_spec
from lightkv.core.strict import LEAST_SEED, MOST_SEED, is_number
from lightkv.lab.errors import GridError
from lightkv.lab.overrides import named

PIPELINE_KEYS = (*ROLES, "proportional", "schedule")
CHANGES = ("base", *PIPELINE_KEYS, "retention", "model", "task", "seed")
"""What a label of an axis, or an explicit cell, may set."""


def changed(pipeline: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """A pipeline with what a label changes.

    A component without `name` changes parameters of the one that is there, and of the same one where
    the schedule overrides the role; a schedule that is a mapping changes keys of the one that is there.
    """
    result = dict(pipeline)
    if "base" in change:
        result = base_data(change["base"])
    if "schedule" in change:  # first, so that parameters reach the overrides that it brings
        old, new = result.get("schedule"), change["schedule"]
        both = isinstance(new, Mapping) and isinstance(old, Mapping)
        result["schedule"] = {**old, **new} if both else new
    for key in (*ROLES, "proportional"):
        if key not in change:
            continue
        if key in ROLES and is_partial(change[key]) and name_of(result.get(key)) is not None:
            result = _with_parameters(result, key, change[key])
        else:
            result[key] = change[key]
    return result


def is_partial(component: Any) -> bool:
    """Whether it gives parameters of a component that is there, and no component."""
    return isinstance(component, Mapping) and "name" not in component


def name_of(component: Any) -> str | None:
    """The name of a component as plain data; None where it has none."""
    found = component.get("name") if isinstance(component, Mapping) else component
    return found if isinstance(found, str) else None


def overrides_of(schedule: Any) -> list[Any]:
    """The overrides of a schedule: of each of its stages, or as its recipe lists them."""
    if isinstance(schedule, Mapping):
        found = schedule.get("overrides")
    else:
        stages = schedule if isinstance(schedule, list | tuple) else ()
        found = [each.get("overrides") if isinstance(each, Mapping) else None for each in stages]
    return list(found) if isinstance(found, list | tuple) else []


def over_overrides(
    pipeline: Mapping[str, Any], change: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> dict[str, Any]:
    """A pipeline with other overrides in its schedule: what `change` makes of each that is not empty."""
    found, schedule = dict(pipeline), pipeline.get("schedule")
    listed = overrides_of(schedule)
    other = [dict(change(each)) if isinstance(each, Mapping) and each else each for each in listed]
    if other == listed:
        return found
    if isinstance(schedule, Mapping):
        found["schedule"] = {**schedule, "overrides": other}
    else:
        stages = zip(schedule or (), other, strict=True)
        found["schedule"] = [{**stage, "overrides": own} if own else stage for stage, own in stages]
    return found


def _with_parameters(
    pipeline: dict[str, Any], role: str, parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """A pipeline with other parameters in its component of a role, and in the overrides of that name."""
    name = name_of(pipeline.get(role))

    def merged(roles: Mapping[str, Any]) -> dict[str, Any]:
        own = roles.get(role)
        if name is None or name_of(own) != name:
            return dict(roles)
        full = own if isinstance(own, Mapping) else {"name": own}
        return {**roles, role: {**full, **parameters}}

    return over_overrides(merged(pipeline), merged)


def base_data(source: Any, folder: Path | None = None) -> dict[str, Any]:
    """A pipeline written out as plain data."""
    if isinstance(source, str) and source.endswith((".yaml", ".yml")):
        source = (folder or Path()) / source
    spec = resolve_spec(source)
    return spec_data(spec)


def written_out(key: str, name: str, folder: Path | None = None) -> dict[str, Any]:
    """What a name in a study stands for: a preset or a pipeline file as `base`, else `{name: …}`."""
    return base_data(name, folder) if key == "base" else named(key, name)


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
    if change.get("retention") is not None:
        check_retention(f"{where}, retention", change["retention"])
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


def check_retention(where: str, retention: Any) -> None:
    """Refuse what is no share of the cache for any method, before it skips all of its cells."""
    if not is_number(retention) or not 0.0 < retention <= 1.0:
        raise GridError(
            "a retention is a number above 0 and at most 1",
            field=where,
            value=retention,
            remedy="write 0.55 for 55 %",
        )


def check_seed(where: str, seed: Any) -> None:
    """Refuse what torch takes for no seed."""
    whole = isinstance(seed, int) and not isinstance(seed, bool)
    if not whole or not LEAST_SEED <= seed <= MOST_SEED:
        raise GridError(
            "a seed is a whole number of at most 64 bits", field=where, value=seed, remedy="try 0"
        )
