"""A compression method as data: components, positions and schedule, from and to YAML."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict, Unpack

import yaml
from pydantic import Field, ValidationError

from lightkv.core import yamls
from lightkv.core.contracts import ROLES, Component, PositionPolicy, window_sides
from lightkv.core.errors import ConfigError, check_known, file_errors, nearest
from lightkv.core.layout import VisionLayout
from lightkv.core.modality import Share
from lightkv.core.needs import Needs, Source, needs_from
from lightkv.core.pipeline.changes import PIPELINE_KEYS, changed, changed_schedule
from lightkv.core.pipeline.placed import PlacedStage
from lightkv.core.pipeline.places import Places
from lightkv.core.pipeline.recipe import Recipe
from lightkv.core.pipeline.schedule import Schedule
from lightkv.core.pipeline.stage_spec import StageSpec, read_stage
from lightkv.core.plugins import build_component, get_preset, registry
from lightkv.core.set_values import overridden
from lightkv.core.stage.stage import STAGE_ROLES, Stage
from lightkv.core.strict import Strict, check_plain

__all__ = ["Pipeline", "PipelineSpec", "Recipe", "resolve_spec"]

ComponentSpec = str | dict[str, Any]
Given = Component | ComponentSpec
"""A component, its name, or `{"name": …, parameter: value}`."""


class Changes(TypedDict, total=False):
    """What can be replaced in a pipeline, as keywords of all that takes one."""

    retention: float | Mapping[str, float] | None
    partitioner: Given
    scorer: Given | None
    matcher: Given
    aggregator: Given
    positions: Given
    proportional: bool
    schedule: Schedule | Recipe | dict[str, Any] | Sequence[StageSpec | dict[str, Any]]
    name: str
    source: str


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

    @property
    def overrides(self) -> tuple[dict[str, Any], ...]:
        """Role → component that replaces the pipeline's, an entry for each stage that has its own.

        Later stages take the last entry again, of which there is at least one.
        """
        stages = self.schedule
        if isinstance(stages, Recipe):
            return stages.overrides or ({},)
        found = [stage.overrides for stage in stages] or [{}]
        while len(found) > 1 and found[-1] == found[-2]:
            found.pop()
        return tuple(found)

    def check_components(self) -> None:
        """Build the components of every stage once: a misspelt one should not wait for a model.

        Raises:
            ConfigError: an unknown component or parameter, a value that it does not take, or components
                that cannot work together.
        """
        for role in ROLES:
            if getattr(self, role) is not None:
                build_component(role, getattr(self, role))
        for overrides in self.overrides:
            Stage.from_roles({**self.roles(), **overrides}, ratio=0.0, windows=None)

    @classmethod
    def parse(
        cls,
        data: Any,
        where: str = "pipeline",
        *,
        folder: Path | None = None,
        files: tuple[Path, ...] = (),
    ) -> PipelineSpec:
        """From plain data (a loaded YAML file).

        With a `base` the data say what is changed of another pipeline. What they do not say is that
        pipeline's, apart from its name and source.

        Args:
            data: a mapping.
            where: what errors call it.
            folder: that the path of a base is relative to; the working directory if None.
            files: that are being read, each for the one before it.

        Raises:
            ConfigError: an unknown key, a missing one or a value of the wrong kind; a base that there
                is not, or that is the file itself.
        """
        if not isinstance(data, dict):
            raise ConfigError(
                "a pipeline is a mapping of roles to components",
                field=where,
                value=type(data).__name__,
                remedy=f"its keys are: base, {', '.join(cls.model_fields)}",
            )
        check_plain(data, where)
        for key in data:
            what = "a pipeline has no such key"
            check_known(ConfigError, what, where, key, ("base", *cls.model_fields))
        try:
            if "base" in data:
                data = _on_its_base(data, folder, files)
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
    def from_file(cls, path: str | Path, *, files: tuple[Path, ...] = ()) -> PipelineSpec:
        """From a YAML file; `files` are those that name it as their base, by way of one another.

        Raises:
            ConfigError: no file, not YAML, with the line, or as `parse`.
        """
        remedy = "give the path of a YAML file, or the name of a preset"
        bad = (OSError, ValueError)
        try:
            with file_errors(ConfigError, "read it", "pipeline file", path, remedy, bad):
                data = yamls.read(path)
        except yaml.YAMLError as error:
            raise _not_yaml(error, "pipeline file", str(path)) from error
        place = Path(os.path.realpath(path))
        if place in files or len(files) >= MOST_BASES:
            raise ConfigError(
                "the file is its own base"
                if place in files
                else f"more than {MOST_BASES} files, each the base of the one before",
                field="base",
                value=str(path),
                remedy="let the last of the files name a preset",
            )
        return cls.parse(
            data, str(path), folder=Path(path).absolute().parent, files=(*files, place)
        )

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

    def to_data(self) -> dict[str, Any]:
        """Plain data without defaults, which `parse` reads back."""
        data: dict[str, Any] = yaml.safe_load(self.to_yaml())
        if isinstance(self.schedule, Recipe):
            given = self.schedule.model_dump(mode="json", exclude_defaults=True)
            data["schedule"] = {"retention": self.schedule.retention, **given}
        return data

    @classmethod
    def _refused(cls, error: ValidationError) -> ConfigError:
        found = super()._refused(error)
        if found.field == "base":
            found.remedy = "PipelineSpec.parse and lightkv.compress take {'base': …, …}"
        return found

    def parts_with(self, values: Mapping[str, Any], where: str = "pipeline") -> Changes:
        """Its parts with other values at some places, as `updated` and `lightkv.compress` take them.

            spec.updated(**spec.parts_with({"matcher.metric": "keys", "schedule.ratio": 0.4}))

        Args:
            values: place → value, as for `lightkv.core.set_values.overridden`; `retention` is a place.
            where: what errors call it.

        Raises:
            ConfigError: a place that there is not.
        """
        named = list(dict.fromkeys(place.partition(".")[0] for place in values))
        for part in named:
            what = "a pipeline has no such part"
            check_known(ConfigError, what, where, part, Changes.__annotations__)
        data = {"retention": None, **self.model_dump(mode="json")}
        data = overridden(data, values, ConfigError, where)
        return {part: data[part] for part in named}  # type: ignore[return-value]

    def updated(self, **changes: Unpack[Changes]) -> PipelineSpec:
        """A copy with another retention, roles or schedule; see `lightkv.compress` for the keywords.

        A schedule that is a mapping changes keys of the recipe that is there, as it does in a file with
        a base and in a grid; a `Recipe` takes its place.

        Raises:
            ConfigError: unknown keys; a retention for a schedule of explicit stages.
        """
        data, retention = self.model_dump(), changes.pop("retention", None)
        for key, value in changes.items():
            if key not in data:
                raise ConfigError(
                    "a pipeline has no such part",
                    field=key,
                    value=value,
                    remedy=f"{nearest(key, data)}There are: {', '.join(data)}",
                )
            if key == "schedule":
                value = changed_schedule(data[key], value)
            data[key] = _plain(value)
        if retention is not None:
            if not isinstance(data["schedule"], dict):
                raise ConfigError(
                    "the schedule has explicit stages, which already fix the retention",
                    field="retention",
                    value=retention,
                    remedy="leave one of the two out",
                )
            wanted = dict(retention) if isinstance(retention, Mapping) else retention
            data["schedule"] = {**data["schedule"], "retention": wanted}
        return self.parse(data)


MOST_BASES = 10
"""Files that are read for one pipeline, each the base of the one before."""
PipelineSource = PipelineSpec | str | Path | dict[str, Any]
"""A spec, the name of a preset, the path of a YAML file, or plain data."""


def _on_its_base(
    data: dict[str, Any], folder: Path | None, files: tuple[Path, ...]
) -> dict[str, Any]:
    """The data of a pipeline that names a base, written out."""
    base = data["base"]
    if not isinstance(base, PipelineSpec | str | Path | dict):
        raise ConfigError(
            "a base is the name of a preset, the path of a YAML file, or a pipeline",
            field="base",
            value=base,
            remedy="such as `base: NAME`; `lightkv strategies` lists the presets",
        )
    plain = resolve_spec(base, folder, files).to_data()
    del plain["name"], plain["source"]  # what is changed is neither that preset nor of its paper
    own = {key: value for key, value in data.items() if key not in ("base", *PIPELINE_KEYS)}
    return {**changed(plain, data), **own}


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
        schedule: the stages as data.
        stages: the same with their components, each at its place.
        positions: the position policy.
        num_layers: decoder layers it was built for.
        asked: retention that its recipe was solved for, of all vision tokens or modality → that of its
            own; None if its stages were given.
        places: where the decoder lets stages act.
    """

    spec: PipelineSpec
    schedule: Schedule
    stages: tuple[PlacedStage, ...]
    positions: PositionPolicy
    num_layers: int
    asked: Share | None = None
    places: Places = field(default_factory=Places)

    @classmethod
    def build(
        cls,
        source: PipelineSource,
        /,
        num_layers: int,
        *,
        places: Places | None = None,
        min_layer: int = 0,
        **changes: Unpack[Changes],
    ) -> Pipeline:
        """Components and schedule for a decoder.

        Args:
            source: a spec, a preset's name, a path to a YAML file or plain data.
            num_layers: decoder layers.
            places: where the decoder lets stages act; anywhere if None.
            min_layer: layers that the model needs to run before the first stage, if that is all that
                `places` would say.
            changes: what to replace in it: `retention`, roles, `positions`, `schedule`, ….

        Raises:
            ConfigError: anything that cannot work, before a model is touched.
        """
        spec = resolve_spec(source)
        if changes:
            spec = spec.updated(**changes)
        places = (places or Places()).least(min_layer)
        schedule = (
            spec.schedule.schedule(num_layers, allowed=searched_places(spec, num_layers, places))
            if isinstance(spec.schedule, Recipe)
            else Schedule(spec.schedule)
        )
        schedule.check_places(num_layers, places)
        positions = build_component("positions", spec.positions)
        assert isinstance(positions, PositionPolicy)
        roles = spec.roles()
        stages = tuple(PlacedStage.build(i, roles, e) for i, e in enumerate(schedule.stages))
        schedule.check_places(num_layers, places, lambda number: stages[number].stage.needs)
        if spec.proportional and any(
            needs_from(placed.stage.needs, Source.NEXT_LAYER) for placed in stages
        ):
            raise ConfigError(
                "the attention of the layer after a stage is computed without the sizes of merged "
                "tokens, so it would not be what that layer computes",
                field="proportional",
                value=True,
                remedy="use a scorer of the layer before the stage, or leave proportional out",
            )
        explicit = spec.model_copy(update={"schedule": schedule.stages})
        asked = spec.schedule.retention if isinstance(spec.schedule, Recipe) else None
        pipeline = cls(explicit, schedule, stages, positions, num_layers, asked, places)
        pipeline.check_composition()
        return pipeline

    @cached_property
    def between(self) -> dict[int, PlacedStage]:
        """λ → the stage after λ layers; stages that remove nothing are left out."""
        return {
            placed.after_layer: placed
            for placed in self.stages
            if placed.removes and placed.after_layer is not None
        }

    @cached_property
    def on_cache(self) -> PlacedStage | None:
        """The stage on the cache, None if there is none or it removes nothing."""
        found = (placed for placed in self.stages if placed.site == "cache" and placed.removes)
        return next(found, None)

    @property
    def tapped_layers(self) -> tuple[int, ...]:
        """Layers whose own attention call some stage reads."""
        if self.on_cache is not None and self.on_cache.needs:
            return tuple(i for i in range(self.num_layers) if i not in self.places.unread)
        return tuple(
            after - 1
            for after, placed in self.between.items()
            if needs_from(placed.needs, Source.ATTENTION)
        )

    @property
    def retention(self) -> float:
        """Planned retention, before rounding to whole tokens.

        Where modalities have retentions of their own the mean of these; see `retentions`.
        """
        return self.schedule.retention(self.num_layers)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that are compressed by shares of their own; none where all tokens are alike."""
        return self.schedule.modalities

    @property
    def retentions(self) -> dict[str, float]:
        """Modality → its planned retention, where modalities have their own; else empty."""
        return {name: self.schedule.retention(self.num_layers, name) for name in self.modalities}

    def planned_for(self, layout: VisionLayout) -> float:
        """Planned retention of all vision tokens of a prompt together."""
        planned = self.retentions
        counts = [each for row in layout.counts_by_modality for each in row.items()]
        total = sum(count for _, count in counts)
        if not planned or not total:
            return self.retention
        return math.fsum(count * planned.get(name, 1.0) for name, count in counts) / total

    def check_prompt(self, layout: VisionLayout) -> None:
        """Refuse a prompt that has vision tokens, but of no modality that is to be compressed.

        Raises:
            ConfigError: with the modalities that are named, and those that the prompt has.
        """
        found = layout.modalities
        if self.modalities and found and not set(found) & set(self.modalities):
            raise ConfigError(
                f"the prompt has tokens of {' and '.join(found)} only, so nothing would be compressed",
                field="retention",
                value=list(self.modalities),
                remedy=f"name {' or '.join(found)}, as in retention={{{found[0]!r}: 0.5}}, or give one "
                "number for all modalities",
            )

    @property
    def counts_text(self) -> bool:
        """Whether text entries of the cache take part, so that retention is a share of all entries."""
        return self.schedule.cache is not None and self.schedule.cache.scope == "all"

    def check_composition(self) -> None:
        """Plan all stages on a sample grid, so that impossible compositions fail here.

        Raises:
            ConfigError: populations of some stage would depend on values.
        """
        stages = [
            replace(placed, rounds=tuple(map(_small, placed.rounds))) for placed in self.stages
        ]
        windows = [window_sides(placed.stage.windows) for placed in stages]
        side = 4 * max((4, *(space for space, _ in windows)))
        frames = max((1, *(time for _, time in windows)))
        layout = VisionLayout.from_spans([[(0, (frames, side, side))]])
        layout = layout.with_length(layout.original_counts[0])
        cache = next((placed for placed in stages if placed.site == "cache"), None)
        for placed in stages:
            # Each layer compresses the cache of what it sees: all, or what a stage left.
            if cache is not None and cache.removes:
                list(cache.planned(layout))
            if placed.site == "layers":
                *_, last = placed.planned(layout)
                layout = last.after()

    def to_yaml(self) -> str:
        """YAML with the stages written out."""
        return self.spec.to_yaml()


_FEW, _FEW_FRAMES = 16, 8
"""Windows per side, and over time, that show whether a composition can work as well as more do."""


def _small(stage: Stage) -> Stage:
    """The stage with few windows: as many as there are would need a grid of that size."""
    windows = stage.windows
    if isinstance(windows, dict):
        most = {"space": _FEW, "time": _FEW_FRAMES}
        return replace(stage, windows={key: min(n, most[key]) for key, n in windows.items()})
    return stage if windows is None else replace(stage, windows=min(windows, _FEW))


def searched_places(spec: PipelineSpec, num_layers: int, places: Places) -> tuple[int, ...]:
    """The places among which the layers of a recipe are searched: those that suit all its stages.

    A first stage before the decoder has to suit that place alone.

    Raises:
        ConfigError: components that cannot be built.
    """
    needs: Needs = frozenset()
    recipe = spec.schedule
    if not places.unread or not isinstance(recipe, Recipe):
        return places.allowed(num_layers, needs)
    asked = [
        Stage.from_roles({**spec.roles(), **overrides}, ratio=0.0, windows=None).needs
        for overrides in ({}, *recipe.overrides)
    ]
    found = places.allowed(num_layers, needs.union(*asked))
    first = asked[1] if recipe.overrides else asked[0]
    if recipe.before_decoder and places.refusal(0, num_layers, first) is None:
        return tuple(sorted({0, *found}))
    return found


def resolve_spec(
    source: PipelineSource, folder: Path | None = None, files: tuple[Path, ...] = ()
) -> PipelineSpec:
    """A spec from a spec, preset name, YAML path or plain data.

    Args:
        source: one of these.
        folder: that paths are relative to; the working directory if None.
        files: as for `PipelineSpec.parse`.

    Raises:
        UnknownNameError: no preset of that name.
        ConfigError: a file or data that are no pipeline.
    """
    if isinstance(source, PipelineSpec):
        return source
    if not isinstance(source, (str, Path)):
        return PipelineSpec.parse(source, folder=folder, files=files)
    if isinstance(source, Path) or source.endswith((".yaml", ".yml")):
        return PipelineSpec.from_file((folder or Path()) / source, files=files)
    preset = get_preset(source)
    if not isinstance(preset, PipelineSpec):
        raise registry().refuse("preset", source)
    return preset
