"""One entry of a schedule: what it may say, and how it is read from plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from lightkv.core.contracts import WindowSpec, window_sides, wrong_windows
from lightkv.core.errors import ConfigError
from lightkv.core.modality import Share, check_ratio
from lightkv.core.stage.cache_entries import Scope
from lightkv.core.strict import Strict, check_plain

Site = Literal["layers", "cache"]
"""Where a stage acts: on hidden states between layers, or on each layer's keys and values."""


class StageSpec(Strict):
    """One entry of a schedule.

    Attributes:
        site: `layers`: hidden states, after λ layers; `cache`: keys and values of every layer, once
            the layer has run in the prefill.
        after_layer: λ, decoder layers that see the tokens uncompressed by this stage; None on the
            cache site.
        ratio: ρ, share of the current vision tokens that the stage removes, in [0, 1); or modality →
            that of its tokens (`{image: 0.5, audio: 0.3}`), others then stay.
        windows: windows per side of each view (`4`), `{space: 4, time: 2}`, or None for the
            partitioner's own default.
        scope: `all` lets text entries take part too (cache site only).
        overrides: role → component spec that replaces the pipeline's in this stage.
    """

    site: Site = "layers"
    after_layer: int | None = Field(default=None, validate_default=True)
    ratio: Share
    windows: WindowSpec = None
    scope: Scope = "vision"
    overrides: dict[str, Any] = {}

    @field_validator("after_layer")
    @classmethod
    def _layer_is_natural(cls, value: int | None, info: ValidationInfo) -> int | None:
        on_cache = info.data.get("site") == "cache"
        if on_cache and value is not None:
            raise ValueError("a stage on the cache acts in every layer: leave after_layer out")
        if value is None and not on_cache:
            raise ValueError("a stage between layers says after how many of them it acts")
        if value is not None and value < 0:
            raise ValueError("a stage acts after 0 or more layers")
        return value

    @field_validator("scope")
    @classmethod
    def _scope_is_of_the_cache(cls, value: Scope, info: ValidationInfo) -> Scope:
        if value == "all" and info.data.get("site") != "cache":
            raise ValueError("text tokens take part on the cache site only")
        if value == "all" and isinstance(info.data.get("ratio"), dict):
            raise ValueError("where text takes part, one ratio is for all entries")
        return value

    @field_validator("ratio")
    @classmethod
    def _ratio_is_share(cls, value: Share) -> Share:
        check_ratio(value)
        return value

    @field_validator("windows")
    @classmethod
    def _windows_are_positive(cls, value: WindowSpec) -> WindowSpec:
        wrong = wrong_windows(value)
        if wrong is not None:
            raise ValueError(wrong)
        return value


def read_stage(number: int, stage: StageSpec | dict[str, Any]) -> StageSpec:
    """A stage from plain data, with its place in the schedule named in errors."""
    if isinstance(stage, StageSpec):
        return stage
    remedy = "a stage is {after_layer: 15, windows: 4, ratio: 0.5}, or {site: cache, ratio: 0.5}"
    where = f"schedule[{number}]"
    if not isinstance(stage, Mapping):
        raise ConfigError("a stage is a mapping", field=where, value=stage, remedy=remedy)
    check_plain(stage, where)
    try:
        return StageSpec(**stage)
    except ConfigError as error:
        error.field = where if error.field is None else f"{where}.{error.field}"
        error.remedy = remedy
        raise


def check_windows_shrink(number: int, before: WindowSpec, after: WindowSpec) -> None:
    """Refuse a later stage with more windows than an earlier one."""
    if before is None or after is None:
        return
    old, new = window_sides(before), window_sides(after)
    if new[0] > old[0] or (old[1] and new[1] > old[1]):
        raise ConfigError(
            f"windows grow in number from {before} to {after} per side",
            field=f"schedule[{number}].windows",
            value=after,
            remedy="later stages use fewer, larger windows, such as 4, 2, 1",
        )
