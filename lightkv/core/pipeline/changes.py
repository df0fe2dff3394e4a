"""What a change makes of a pipeline as plain data: of a label of a grid, and of a file with a base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightkv.core.contracts import ROLES

PIPELINE_KEYS = (*ROLES, "proportional", "schedule")
"""What a change may set; name and source say what a pipeline is, and not what it does."""


def changed(pipeline: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """A pipeline with what a change says of it; other keys of the change are left alone.

    A component without `name` changes parameters of the one that is there; so does a schedule that
    is a mapping.
    """
    result = dict(pipeline)
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
