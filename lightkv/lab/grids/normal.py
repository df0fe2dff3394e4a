"""A pipeline in the one form that all ways to write it down share: what it computes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from lightkv.core.errors import LightKVError
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe
from lightkv.core.plugins import build_component
from lightkv.core.stage.stage import STAGE_ROLES


def normal_form(pipeline: Mapping[str, Any]) -> Any:
    """Equal for pipelines that compute the same, as far as building their components tells.

    Every stage has its components, those of its overrides included, and no parameter has the value that
    it has by default. A pipeline's name and source decide nothing. One whose components are not there
    (of a plugin that is not installed) stays as it is written.
    """
    written = {key: value for key, value in pipeline.items() if key not in ("name", "source")}
    if not written:
        return written
    try:
        return json.loads(_built(json.dumps(written, sort_keys=True)))
    except (LightKVError, TypeError, ValueError):
        return written


@lru_cache(maxsize=4096)
def _built(text: str) -> str:
    """As text, so that the same pipeline of many cells is built once."""
    spec = PipelineSpec.parse(json.loads(text))
    found: dict[str, Any] = {"positions": _component("positions", spec.positions)}
    found["proportional"] = spec.proportional
    roles = spec.roles()
    if isinstance(spec.schedule, Recipe):
        found |= {role: _component(role, component) for role, component in roles.items()}
        found["schedule"] = spec.schedule.model_dump(mode="json")
    else:
        found["schedule"] = [
            {
                **stage.model_dump(mode="json", exclude={"overrides"}),
                **{r: _component(r, given) for r, given in {**roles, **stage.overrides}.items()},
            }
            for stage in spec.schedule
        ]
    return json.dumps(found)


def _component(role: str, given: Any) -> Any:
    """A component without parameters that have their default."""
    optional = given is None and role in STAGE_ROLES
    return None if optional else build_component(role, given).spec()
