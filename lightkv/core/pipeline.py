"""A compression method as data: components, positions and schedule, from and to YAML."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lightkv.core.building import STAGE_ROLES, build_rounds
from lightkv.core.cache import needs_of_call, plan_rounds, planned
from lightkv.core.entries import Scope, Site, StageSpec
from lightkv.core.errors import ConfigError, nearest
from lightkv.core.layout import VisionLayout
from lightkv.core.plugins import build_component, get_preset
from lightkv.core.roles import Component, PositionPolicy, WindowSpec
from lightkv.core.schedule import Schedule
from lightkv.core.stage import Stage

ComponentSpec = str | dict[str, Any]
DEFAULT_RETENTION = 0.55
DEFAULT_RATIO = 0.5
_CPU = torch.device("cpu")


class Recipe(BaseModel):
    """A schedule that is solved when the depth of the model is known.

    Attributes:
        retention: wanted mean over all layers of the share of vision tokens in the cache.
        windows: one entry for each stage; the last is repeated where more stages are needed.
        ratio: removed share of each stage.
        after_layer: a single stage after this many layers, with its ratio solved, instead.
        depths: stages after these shares of the depth instead, such as (0.25, 0.5, 0.75). What they
            keep is then raised to one common power that meets `retention`.
        ratios: with `depths`, the removed share of each stage that the power starts from; `ratio`
            for all if None.
        overrides: role → component that replaces the pipeline's, one entry for each stage; the last
            is repeated where there are more stages.
        site: `cache`: a single stage on the cache of every layer, with its ratio solved, instead.
        scope: of the stage on the cache: `vision`, or `all` with text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    retention: float = DEFAULT_RETENTION
    windows: tuple[WindowSpec, ...] = (None, None, None)
    ratio: float = DEFAULT_RATIO
    after_layer: int | None = None
    depths: tuple[float, ...] | None = None
    ratios: tuple[float, ...] | None = None
    overrides: tuple[dict[str, Any], ...] = ()
    site: Site = "layers"
    scope: Scope = "vision"

    def schedule(self, num_layers: int, min_layer: int = 0) -> Schedule:
        """The schedule for a decoder of `num_layers` layers, no stage before `min_layer` of them.

        Raises:
            ConfigError: the retention is out of reach; the message names the range.
        """
        placed = self._placed(num_layers, min_layer)
        if not self.overrides:
            return placed
        last = len(self.overrides) - 1
        return Schedule(
            stage.model_copy(update={"overrides": self.overrides[min(number, last)]})
            for number, stage in enumerate(placed.stages)
        )

    def _placed(self, num_layers: int, min_layer: int) -> Schedule:
        window = self.windows[0] if self.windows else None
        if self.site == "cache":
            for other in ("after_layer", "depths"):
                if getattr(self, other) is not None:
                    raise ConfigError(
                        "a stage on the cache acts in every layer",
                        field=f"schedule.{other}",
                        value=getattr(self, other),
                        remedy=f"leave {other} or site: cache out",
                    )
            return Schedule.on_cache(self.retention, window, self.scope)
        if self.scope != "vision":
            raise ConfigError(
                "text tokens take part on the cache site only",
                field="schedule.scope",
                value=self.scope,
                remedy="add site: cache, or leave scope out",
            )
        if self.after_layer is not None:
            return Schedule.single(num_layers, self.retention, self.after_layer, window)
        if self.depths is not None:
            ratios = self.ratios or (self.ratio,) * len(self.depths)
            return Schedule.at_depths(
                num_layers, self.retention, self.depths, ratios, self.windows, max(min_layer, 1)
            )
        windows, first = list(self.windows), max(min_layer, 1)
        while True:
            try:
                return Schedule.for_retention(
                    num_layers, self.retention, windows, self.ratio, min_layer=first
                )
            except ConfigError:
                most = num_layers - first
                if not windows or len(windows) >= most or not 0 < self.retention <= 1:
                    raise
                windows.append(windows[-1])


class PipelineSpec(BaseModel):
    """A named composition: role → component, and when it acts.

    A preset is such a spec under a name; `to_yaml` prints what reproduces it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

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
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            if isinstance(data.get("schedule"), list | tuple):
                # The union's error names neither stage nor field; the schedule's own does.
                Schedule(data["schedule"])
            raise _spec_error(cls, where, error) from error

    @classmethod
    def from_yaml(cls, text: str, where: str = "pipeline") -> PipelineSpec:
        """From YAML text (safe load: no code, no objects)."""
        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(
                f"not valid YAML: {error}",
                field=where,
                value=text[:40],
                remedy="compare with what `Pipeline.to_yaml()` prints; only plain data is allowed",
            ) from error
        return cls.parse(data, where)

    @classmethod
    def from_file(cls, path: str | Path) -> PipelineSpec:
        """From a YAML file."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                str(error),
                field="pipeline file",
                value=str(path),
                remedy="give the path of a YAML file, or the name of a preset",
            ) from error
        return cls.from_yaml(text, str(path))

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
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)

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


def _spec_error(cls: type[BaseModel], where: str, error: ValidationError) -> ConfigError:
    # A key that is not known is the likelier cause of one that is missing.
    found = error.errors()
    first = next((e for e in found if e["type"] == "extra_forbidden"), found[0])
    keys = [str(part) for part in first["loc"] if str(part) not in ("Recipe", "str", "dict")]
    name = keys[0] if keys else ""
    hint = f"its keys are: {', '.join(cls.model_fields)}"
    if first["type"] == "extra_forbidden":
        hint = nearest(keys[-1], cls.model_fields) + hint
    return ConfigError(
        str(first["msg"]),
        field=f"{where}: {'.'.join(keys)}" if name else where,
        value=None if first["type"] == "missing" else first.get("input"),
        remedy=hint,
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
    """

    spec: PipelineSpec
    schedule: Schedule
    stages: tuple[Stage, ...]
    positions: PositionPolicy
    num_layers: int
    rounds: tuple[Stage, ...] = ()

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
        if spec.proportional and any(stage.peeks for stage in stages):
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
        pipeline = cls(explicit, schedule, stages, positions, num_layers, rounds)
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
        return tuple(after - 1 for after, s in stages if s.decoder_requires and not s.peeks)

    @property
    def retention(self) -> float:
        """Planned retention, before rounding to whole tokens."""
        return self.schedule.retention(self.num_layers)

    def check_composition(self) -> None:
        """Plan all stages on a sample grid, so that impossible compositions fail here.

        Raises:
            ConfigError: populations of some stage would depend on values.
        """
        sides, frames = [4], [1]
        for entry in self.schedule.stages:
            windows = entry.windows if isinstance(entry.windows, dict) else {"space": entry.windows}
            sides.append(windows.get("space") or 1)
            frames.append(windows.get("time") or 1)
        side = 4 * max(sides)
        layout = VisionLayout.from_spans([[(0, (max(frames), side, side))]])
        layout = layout.with_length(layout.original_counts[0])
        between = len(self.schedule.after_layers)
        for number, stage in enumerate(self.stages[:between]):
            self._check_rounds(layout)
            plan = planned(stage, layout, number)
            index = layout.token_index(_CPU)
            layout = layout.evolved(plan.length, plan.groups, plan.pads, index)
        self._check_rounds(layout)

    def _check_rounds(self, layout: VisionLayout) -> None:
        """Plan the stage on the cache for layers that see this layout."""
        if self.rounds:
            list(plan_rounds(self, layout, _CPU))

    def to_yaml(self) -> str:
        """YAML with the stages written out."""
        return self.spec.to_yaml()


def resolve_spec(source: PipelineSpec | str | Path | dict[str, Any]) -> PipelineSpec:
    """A spec from a spec, preset name, YAML path or plain data."""
    if isinstance(source, PipelineSpec):
        return source
    if not isinstance(source, (str, Path)):
        return PipelineSpec.parse(source)
    if isinstance(source, Path) or source.endswith((".yaml", ".yml")):
        return PipelineSpec.from_file(source)
    return get_preset(source)
