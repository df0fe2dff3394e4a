"""The schedules that tuning tries at each retention: a strategy's own, and others of the same size.

The same retention can be spent early and gently or late and hard. Which is better depends on the
model, so it is tried. A schedule here is a change of a strategy's recipe, such as `{"ratio": 0.4}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from lightkv.core import yamls
from lightkv.core.errors import ConfigError, nearest
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe
from lightkv.lab.grids.changes import label_text

OWN = "own"
GENTLER = (0.8, 0.7)
"""Of the recipe's removed share; with less to remove in a stage, stages come earlier."""
EARLIER, LATER = 0.5, 2.0
"""Of the layer of a single stage."""
DEPTHS = (0.7,)
"""Of the depths of a recipe that fixes them."""


class Named:
    """What has a strategy and one of its schedules.

    Attributes:
        strategy: as named by the user.
        schedule: what is changed in its recipe, as text; "" for its own.
    """

    strategy: str
    schedule: str

    @property
    def name(self) -> str:
        """The strategy with its schedule."""
        return f"{self.strategy} ({self.schedule})" if self.schedule else self.strategy


@dataclass(frozen=True)
class Candidate(Named):
    """A strategy with one of its schedules.

    Attributes:
        strategy: as named by the user.
        schedule: what is changed in its recipe, as text; "" for its own.
        spec: the pipeline.
    """

    strategy: str
    schedule: str
    spec: PipelineSpec


def candidates(
    strategy: str, spec: PipelineSpec, asked: Sequence[Mapping[str, Any] | str] | None
) -> list[Candidate]:
    """The strategy with its own schedule, then with others.

    Args:
        strategy: its name.
        spec: with a recipe.
        asked: changes of the recipe (`{"ratio": 0.4}`, or as text `"ratio: 0.4"`) to try besides;
            `own` among them adds none. None: those that this module knows for the kind of recipe.

    Raises:
        ConfigError: no keys or values of a recipe.
    """
    recipe = spec.schedule
    assert isinstance(recipe, Recipe), "the caller has checked it"
    changes = usual(recipe) if asked is None else [read_change(one) for one in asked]
    found = [Candidate(strategy, "", spec)]
    for change in changes:
        other = _changed(recipe, change)
        if all(other != made.spec.schedule for made in found):
            label = ", ".join(f"{key} {_text(value)}" for key, value in change.items())
            made = spec.model_copy(update={"schedule": other})
            found.append(Candidate(strategy, label, made))
    return found


def usual(recipe: Recipe) -> list[dict[str, Any]]:
    """Other schedules worth trying: gentler stages, or a single one at another depth."""
    if recipe.site == "cache":
        return []
    if recipe.after_layer is not None:
        # A stage before the decoder reads the vision encoder, and has no other place.
        places = [round(recipe.after_layer * factor) for factor in (EARLIER, LATER)]
        return [{"after_layer": place} for place in places if place != recipe.after_layer]
    if recipe.depths is not None:
        depths = recipe.depths
        return [{"depths": [round(f * depth, 4) for depth in depths]} for f in DEPTHS]
    return [{"ratio": round(factor * recipe.tried_ratios[0], 4)} for factor in GENTLER]


def read_change(asked: Mapping[str, Any] | str) -> dict[str, Any]:
    """`{"ratio": 0.4}`, or `"ratio: 0.4"`, or `"own"` (nothing)."""
    if isinstance(asked, str):
        if asked.strip() == OWN:
            return {}
        try:
            asked = yamls.load(f"{{{asked}}}")
        except yaml.YAMLError as error:
            raise _error("cannot be read as 'key: value'", asked) from error
    if not isinstance(asked, Mapping) or not asked:
        raise _error("a schedule is a change of the strategy's recipe", asked)
    for key, value in asked.items():
        if key not in Recipe.model_fields or value is None:
            raise _error("no key of a recipe with a value", key, nearest(str(key), _KEYS))
        if key == "retention":
            raise _error("the retention is what tune looks for", value)
    return dict(asked)


_KEYS = [key for key in Recipe.model_fields if key != "retention"]


def _error(message: str, value: Any, hint: str = "") -> ConfigError:
    return ConfigError(
        message,
        field="schedule",
        value=value,
        remedy=f"{hint}Such as 'ratio: 0.4'; there are: {', '.join(_KEYS)}",
    )


def _changed(recipe: Recipe, change: Mapping[str, Any]) -> Recipe:
    try:
        return Recipe(**{**recipe.model_dump(), **change})
    except ConfigError as error:
        raise _error(error.message, dict(change)) from error


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "-".join(map(_text, value))
    return label_text(value)
