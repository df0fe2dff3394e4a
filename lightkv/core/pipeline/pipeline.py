"""A compression method as data: components, positions and schedule, from and to YAML."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import Field

from lightkv.core import yamls
from lightkv.core.contracts import Component, PositionPolicy, WindowSpec
from lightkv.core.errors import ConfigError, nearest
from lightkv.core.layout import VisionLayout
from lightkv.core.needs import Source, listed, needs_from
from lightkv.core.pipeline.recipe import Recipe
from lightkv.core.pipeline.schedule import Schedule
from lightkv.core.pipeline.stage_spec import StageSpec, read_stage
from lightkv.core.plugins import build_component, get_preset
from lightkv.core.stage.cache_entries import needs_of_call, plan_rounds, planned
from lightkv.core.stage.stage import Stage
from lightkv.core.strict import Strict, check_plain

__all__ = ["Pipeline", "PipelineSpec", "Recipe", "resolve_spec"]

ComponentSpec = str | dict[str, Any]
_CPU = torch.device("cpu")


class PipelineSpec(Strict):
    """A named composition: role → component, and when it acts.

    A preset is such a spec under a name; `to_yaml` prints what reproduces it.
    """

    name: str = "custom"
    source: str = ""
    partitioner: ComponentSpec = "whole"
    scorer: ComponentSpec | None = None
    matcher: ComponentSpec
    aggregator: ComponentSpec = "drop"
    positions: ComponentSpec = "keep"
    proportional: bool = False
    """Add log(size) of merged tokens to the attention logits of their keys (ToMe, section 3)."""
    schedule: Recipe | tuple[StageSpec, ...] = Field(default_factory=Recipe)

    def roles(self) -> dict[str, Any]:
        """Role → component spec of a stage."""
        return {role: getattr(self, role) for role in STAGE_ROLES}

    @classmethod
    def parse(cls, data: Any, where: str = "pipeline") -> PipelineSpec:
        """From plain data (a loaded YAML file).

        Raises:
            ConfigError: an unknown key, a missing one or a value of the wrong kind.
        """
        if not isinstance(data, dict):
            raise ConfigError(
                "a pipeline is a mapping of roles to components",
                field=where,
                value=type(data).__name__,
                remedy=f"its keys are: {', '.join(cls.model_fields)}",
            )
        check_plain(data, where)
        try:
            if isinstance(schedule := data.get("schedule"), list | tuple):
                stages = tuple(read_stage(i, stage) for i, stage in enumerate(schedule))
                data = {**data, "schedule": stages}
            return cls(**data)
        except ConfigError as error:
            inner = "" if error.field is None else f": {error.field}"
            error.field = f"{where}{inner}"
            raise

    @classmethod
    def from_yaml(cls, text: str, where: str = "pipeline") -> PipelineSpec:
        """From YAML text (safe load: no code, no objects, no key twice).

        Raises:
            ConfigError: not such YAML, with the line, or as `parse`.
        """
        if not isinstance(text, str):
            raise ConfigError(
                "YAML is a text",
                field=where,
                value=text,
                remedy="use PipelineSpec.parse for plain data, from_file for a file",
            )
        try:
            data = yamls.load(text)
        except yaml.YAMLError as error:
            raise _not_yaml(error, where, text[:40]) from error
        return cls.parse(data, where)

    @classmethod
    def from_file(cls, path: str | Path) -> PipelineSpec:
        """From a YAML file."""
        try:
            data = yamls.read(path)
        except (OSError, ValueError) as error:
            raise ConfigError(
                str(error),
                field="pipeline file",
                value=str(path),
                remedy="give the path of a YAML file, or the name of a preset",
            ) from error
        except yaml.YAMLError as error:
            raise _not_yaml(error, "pipeline file", str(path)) from error
        return cls.parse(data, str(path))

    def to_yaml(self) -> str:
        """YAML that gives this spec back."""
        data = self.model_dump(mode="json", exclude_none=True)
        if not self.proportional:
            del data["proportional"]
        if isinstance(self.schedule, Recipe):
            plain = {"site": "layers", "scope": "vision", "overrides": ()}
            if self.schedule.site == "cache":
                del plain["scope"]
            for key, default in plain.items():
                if getattr(self.schedule, key) == default:
                    del data["schedule"][key]
        if isinstance(self.schedule, tuple):
            data["schedule"] = [
                s.model_dump(mode="json", exclude_defaults=True) for s in self.schedule
            ]
        return yamls.dump(data)

    def updated(self, retention: float | None = None, **changes: Any) -> PipelineSpec:
        """A copy with another retention, roles or schedule.

        Raises:
            ConfigError: unknown keys; a retention for a schedule of explicit stages.
        """
        data = self.model_dump()
        unknown = [key for key in changes if key not in type(self).model_fields]
        if unknown:
            raise ConfigError(
                "a pipeline has no such part",
                field=unknown[0],
                value=changes[unknown[0]],
                remedy=f"{nearest(unknown[0], data)}There are: {', '.join(data)}",
            )
        data.update({key: _plain(value) for key, value in changes.items()})
        if retention is not None:
            if not isinstance(data["schedule"], dict):
                raise ConfigError(
                    "the schedule has explicit stages, which already fix the retention",
                    field="retention",
                    value=retention,
                    remedy="leave one of the two out",
                )
            data["schedule"] = {**data["schedule"], "retention": retention}
        return self.parse(data)


def _plain(value: Any) -> Any:
    if isinstance(value, Component):
        return value.spec()
    if isinstance(value, Schedule):
        return value.to_list()
    return value


def _not_yaml(error: yaml.YAMLError, where: str, value: str) -> ConfigError:
    return ConfigError(
        f"not valid YAML: {error}",
        field=where,
        value=value,
        remedy="compare with what `Pipeline.to_yaml()` prints; only plain data is allowed",
    )


@dataclass(frozen=True)
class Pipeline:
    """A spec with its components built, ready for a decoder of known depth.

    Attributes:
        spec: what it was built from; its schedule lists the stages explicitly.
        schedule: the stages.
        stages: the components of each stage; of one on the cache, those of its first round.
        rounds: the rounds of the stage on the cache, empty if there is none or it removes nothing.
        positions: the position policy.
        num_layers: decoder layers it was built for.
        asked: retention that its recipe was solved for; None if its stages were given.
    """

    spec: PipelineSpec
    schedule: Schedule
    stages: tuple[Stage, ...]
    positions: PositionPolicy
    num_layers: int
    rounds: tuple[Stage, ...] = ()
    asked: float | None = None

    @classmethod
    def build(
        cls,
        source: PipelineSpec | str | Path | dict[str, Any],
        num_layers: int,
        *,
        min_layer: int = 0,
        **changes: Any,
    ) -> Pipeline:
        """Components and schedule for a decoder.

        Args:
            source: a spec, a preset's name, a path to a YAML file or plain data.
            num_layers: decoder layers.
            min_layer: layers that the model needs to run before the first stage.
            changes: `retention`, roles, `schedule` or `positions` to replace.

        Raises:
            ConfigError: anything that cannot work, before a model is touched.
        """
        spec = resolve_spec(source)
        if changes:
            spec = spec.updated(**changes)
        schedule = (
            spec.schedule.schedule(num_layers, min_layer)
            if isinstance(spec.schedule, Recipe)
            else Schedule(spec.schedule)
        )
        schedule.check(num_layers, min_layer)
        positions = build_component("positions", spec.positions)
        assert isinstance(positions, PositionPolicy)
        built = [build_rounds(i, spec.roles(), e) for i, e in enumerate(schedule.stages)]
        stages = tuple(rounds[0] for rounds in built)
        if spec.proportional and any(
            needs_from(stage.needs, Source.NEXT_LAYER) for stage in stages
        ):
            raise ConfigError(
                "the attention of the layer after a stage is computed without the sizes of merged "
                "tokens, so it would not be what that layer computes",
                field="proportional",
                value=True,
                remedy="use a scorer of the layer before the stage, or leave proportional out",
            )
        rounds: tuple[Stage, ...] = ()
        if schedule.cache is not None and schedule.cache.ratio > 0:
            rounds = built[-1]
        explicit = spec.model_copy(update={"schedule": schedule.stages})
        asked = spec.schedule.retention if isinstance(spec.schedule, Recipe) else None
        pipeline = cls(explicit, schedule, stages, positions, num_layers, rounds, asked)
        pipeline.check_composition()
        return pipeline

    @cached_property
    def after_layers(self) -> dict[int, int]:
        """Stage number by the layer it comes after; stages that remove nothing are left out."""
        return {
            entry.after_layer: number
            for number, entry in enumerate(self.schedule.stages)
            if entry.ratio > 0 and entry.after_layer is not None
        }

    @property
    def tapped_layers(self) -> tuple[int, ...]:
        """Layers whose own attention call some stage reads."""
        if self.rounds and needs_of_call(self.rounds[0]):
            return tuple(range(self.num_layers))
        stages = ((after, self.stages[number]) for after, number in self.after_layers.items())
        return tuple(after - 1 for after, s in stages if needs_from(s.needs, Source.ATTENTION))

    @property
    def retention(self) -> float:
        """Planned retention, before rounding to whole tokens."""
        return self.schedule.retention(self.num_layers)

    @property
    def counts_text(self) -> bool:
        """Whether text entries of the cache take part, so that retention is a share of all entries."""
        return self.schedule.cache is not None and self.schedule.cache.scope == "all"

    def check_composition(self) -> None:
        """Plan all stages on a sample grid, so that impossible compositions fail here.

        Raises:
            ConfigError: populations of some stage would depend on values.
        """
        sample = replace(
            self,
            stages=tuple(map(_small, self.stages)),
            rounds=tuple(map(_small, self.rounds)),
        )
        windows = [_sides(stage.windows) for stage in (*sample.stages, *sample.rounds)]
        side = 4 * max((4, *(space for space, _ in windows)))
        frames = max((1, *(time for _, time in windows)))
        layout = VisionLayout.from_spans([[(0, (frames, side, side))]])
        layout = layout.with_length(layout.original_counts[0])
        between = len(self.schedule.after_layers)
        for number, stage in enumerate(sample.stages[:between]):
            sample._check_rounds(layout)
            plan = planned(stage, layout, number)
            index = layout.token_index(_CPU)
            layout = layout.evolved(plan.length, plan.groups, plan.pads, index)
        sample._check_rounds(layout)

    def _check_rounds(self, layout: VisionLayout) -> None:
        """Plan the stage on the cache for layers that see this layout."""
        if self.rounds:
            list(plan_rounds(self, layout, _CPU))

    def to_yaml(self) -> str:
        """YAML with the stages written out."""
        return self.spec.to_yaml()


_FEW, _FEW_FRAMES = 16, 8
"""Windows per side, and over time, that show whether a composition can work as well as more do."""


def _sides(windows: WindowSpec) -> tuple[int, int]:
    """Windows over space and over time, 1 where that is not said."""
    entry = windows if isinstance(windows, dict) else {"space": windows or 1}
    return entry.get("space", 1), entry.get("time", 1)


def _small(stage: Stage) -> Stage:
    """The stage with few windows: as many as there are would need a grid of that size."""
    windows = stage.windows
    if isinstance(windows, dict):
        most = {"space": _FEW, "time": _FEW_FRAMES}
        return replace(stage, windows={key: min(n, most[key]) for key, n in windows.items()})
    return stage if windows is None else replace(stage, windows=min(windows, _FEW))


def resolve_spec(source: PipelineSpec | str | Path | dict[str, Any]) -> PipelineSpec:
    """A spec from a spec, preset name, YAML path or plain data."""
    if isinstance(source, PipelineSpec):
        return source
    if not isinstance(source, (str, Path)):
        return PipelineSpec.parse(source)
    if isinstance(source, Path) or source.endswith((".yaml", ".yml")):
        return PipelineSpec.from_file(source)
    return get_preset(source)


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
    before = needs_from(stage.needs, Source.ATTENTION)
    if layer == 0 and before:
        raise ConfigError(
            f"the stage needs {listed(before)} of the layer before it, and "
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
    elif needs_from(stage.needs, Source.NEXT_LAYER):
        problem = "a layer's cache is compressed before the next layer runs, so nothing can read it"
    elif entry.scope == "all" and needs_from(stage.needs, Source.ENCODER):
        problem = "text entries take part, and the vision encoder says nothing of them"
    if problem is not None:
        raise ConfigError(
            problem,
            field=f"schedule[{number}].site",
            value=entry.site,
            remedy="use other components, or a stage between layers",
        )
