"""From an entry of a schedule to its components, with what cannot work refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lightkv.core.attention import NEXT_LAST_ROW
from lightkv.core.entries import StageSpec
from lightkv.core.errors import ConfigError
from lightkv.core.stage import Stage

STAGE_ROLES = ("partitioner", "scorer", "matcher", "aggregator")


def build_rounds(number: int, roles: dict[str, Any], entry: StageSpec) -> tuple[Stage, ...]:
    """The stage of an entry; on the cache as many rounds as the matcher needs for the ratio.

    Args:
        number: of the entry, for messages.
        roles: role → component spec of the pipeline.
        entry: what the schedule says.

    Raises:
        ConfigError: overrides of other roles, a ratio or components that cannot work there.
    """
    unknown = [role for role in entry.overrides if role not in STAGE_ROLES]
    if unknown:
        raise ConfigError(
            "only the roles of a stage can be overridden",
            field=f"schedule[{number}].overrides",
            value=unknown[0],
            remedy=f"the roles are: {', '.join(STAGE_ROLES)}",
        )
    roles = {**roles, **entry.overrides}
    if entry.site == "cache":
        stage = Stage.from_roles(roles, ratio=0.0, windows=entry.windows)
        if entry.ratio > 0:
            _check_on_cache(number, stage, entry)
        ratios = round_ratios(entry.ratio, stage.matcher.max_ratio)
        return tuple(replace(stage, ratio=ratio) for ratio in ratios)
    try:
        stage = Stage.from_roles(roles, ratio=entry.ratio, windows=entry.windows)
    except ConfigError as error:
        if error.field == "ratio":
            error.field = f"schedule[{number}].ratio"
        raise
    if entry.ratio > 0:
        _check_between_layers(number, stage, entry)
    return (stage,)


def round_ratios(ratio: float, most: float) -> list[float]:
    """Ratios of rounds that remove `ratio` together: `most` in each but the last."""
    if most <= 0.0:
        return [0.0]
    goal, left, ratios = 1.0 - ratio, 1.0, []
    while left * (1.0 - most) > goal + 1e-9:
        ratios.append(most)
        left *= 1.0 - most
    return [*ratios, min(most, max(0.0, 1.0 - goal / left))]


def _check_between_layers(number: int, stage: Stage, entry: StageSpec) -> None:
    field, layer = f"schedule[{number}].after_layer", entry.after_layer
    if layer != 0 and stage.aggregator.space == "vision":
        raise ConfigError(
            f"aggregator {stage.aggregator.name!r} merges what enters the projector, which the "
            "decoder's layers have replaced by then",
            field=field,
            value=layer,
            remedy="use after_layer: 0",
        )
    behind = stage.decoder_requires - {NEXT_LAST_ROW}
    if layer == 0 and behind:
        raise ConfigError(
            f"the stage needs {', '.join(sorted(behind))} of the layer before it, and "
            "before the decoder there is none",
            field=field,
            value=0,
            remedy="use after_layer >= 1 or components that read no attention",
        )


def _check_on_cache(number: int, stage: Stage, entry: StageSpec) -> None:
    problem = None
    if stage.aggregator.space == "vision":
        problem = (
            f"aggregator {stage.aggregator.name!r} merges what enters the projector, and the cache "
            "holds keys and values"
        )
    elif stage.peeks:
        problem = "a layer's cache is compressed before the next layer runs, so nothing can read it"
    elif entry.scope == "all" and stage.vision_requires:
        problem = "text entries take part, and the vision encoder says nothing of them"
    if problem is not None:
        raise ConfigError(
            problem,
            field=f"schedule[{number}].site",
            value=entry.site,
            remedy="use other components, or a stage between layers",
        )
