"""What a change makes of a pipeline as plain data: of a label of a grid, and of a file with a base."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lightkv.core.contracts import ROLES

PIPELINE_KEYS = (*ROLES, "proportional", "schedule")
"""What a change may set; name and source say what a pipeline is, and not what it does."""


def changed(pipeline: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """A pipeline with what a change says of it; other keys of the change are left alone.

    A component without `name` changes parameters of the one that is there, and of the same one where
    the schedule overrides the role; a schedule that is a mapping changes keys of the one that is there.
    """
    result = dict(pipeline)
    if "schedule" in change:  # first, so that parameters reach the overrides that it brings
        result["schedule"] = changed_schedule(result.get("schedule"), change["schedule"])
    for key in (*ROLES, "proportional"):
        if key not in change:
            continue
        if key in ROLES and is_partial(change[key]) and name_of(result.get(key)) is not None:
            result = _with_parameters(result, key, change[key])
        else:
            result[key] = change[key]
    return result


def changed_schedule(old: Any, new: Any) -> Any:
    """A recipe with other keys where both are mappings; else the new schedule in place of the old."""
    both = isinstance(new, Mapping) and isinstance(old, Mapping)
    return {**old, **new} if both else new


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
        if name_of(own) != name:
            return dict(roles)
        full = own if isinstance(own, Mapping) else {"name": own}
        return {**roles, role: {**full, **parameters}}

    return over_overrides(merged(pipeline), merged)
