"""A stage at its place in a pipeline: where it acts, and with which components."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from lightkv.core.errors import ConfigError
from lightkv.core.layout import VisionLayout
from lightkv.core.modality import Share, most_removed
from lightkv.core.needs import Needs, Source, listed, needs_from
from lightkv.core.pipeline.stage_spec import Site, StageSpec
from lightkv.core.stage.cache_entries import entries_layout, needs_of_call
from lightkv.core.stage.plan import StagePlan
from lightkv.core.stage.stage import STAGE_ROLES, Stage

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class PlannedRound:
    """One round of a stage on a layout, planned before anything runs.

    Attributes:
        stage: its components.
        before: the layout that it meets.
        plan: what it does to that layout.
    """

    stage: Stage
    before: VisionLayout
    plan: StagePlan

    def after(self) -> VisionLayout:
        """A layout with what is known ahead of the one that the round leaves.

        How many tokens survive, and in which groups, is known; which ones is not, so the places that
        it names mean nothing.
        """
        plan, index = self.plan, self.before.token_index(_CPU)
        return self.before.evolved(plan.length, plan.groups, plan.pads, index)


@dataclass(frozen=True)
class PlacedStage:
    """A stage of a pipeline.

    Attributes:
        number: its place in the schedule, from 0.
        spec: what the schedule says of it.
        rounds: its components; on the cache one entry for each round that the matcher needs for the
            ratio, elsewhere a single one.
    """

    number: int
    spec: StageSpec
    rounds: tuple[Stage, ...]

    @classmethod
    def build(cls, number: int, roles: dict[str, Any], spec: StageSpec) -> PlacedStage:
        """The stage of an entry of a schedule.

        Args:
            number: of the entry.
            roles: role → component spec of the pipeline.
            spec: the entry.

        Raises:
            ConfigError: overrides of other roles, a ratio or components that cannot work there.
        """
        unknown = [role for role in spec.overrides if role not in STAGE_ROLES]
        if unknown:
            raise ConfigError(
                "only the roles of a stage can be overridden",
                field=f"schedule[{number}].overrides",
                value=unknown[0],
                remedy=f"the roles are: {', '.join(STAGE_ROLES)}",
            )
        on_cache = spec.site == "cache"
        try:
            stage = Stage.from_roles(
                {**roles, **spec.overrides},
                ratio=0.0 if on_cache else spec.ratio,
                windows=spec.windows,
            )
        except ConfigError as error:
            if error.field == "ratio":
                error.field = f"schedule[{number}].ratio"
            raise
        if most_removed(spec.ratio) > 0:
            check = _check_on_cache if on_cache else _check_between_layers
            check(number, stage, spec)
        if not on_cache:
            return cls(number, spec, (stage,))
        ratios = round_ratios(spec.ratio, stage.matcher.max_ratio)
        return cls(number, spec, tuple(replace(stage, ratio=ratio) for ratio in ratios))

    @property
    def site(self) -> Site:
        """Between layers, or on the cache of every layer."""
        return self.spec.site

    @property
    def after_layer(self) -> int | None:
        """λ, decoder layers that see the tokens uncompressed by this stage; None on the cache."""
        return self.spec.after_layer

    @property
    def stage(self) -> Stage:
        """The components, of the first round where there are several."""
        return self.rounds[0]

    @property
    def removes(self) -> bool:
        """Whether it is there to remove anything."""
        return most_removed(self.spec.ratio) > 0

    @cached_property
    def needs(self) -> Needs:
        """What it reads inside an attention call of the decoder."""
        if self.site == "cache":
            return needs_of_call(self.stage)
        return needs_from(self.stage.needs, Source.ATTENTION, Source.NEXT_LAYER)

    def entering(self, layout: VisionLayout) -> VisionLayout:
        """The layout of the tokens that take part, where the layer holds `layout`."""
        return entries_layout(layout, self.spec.scope) if self.site == "cache" else layout

    def plan(self, layout: VisionLayout, turn: int = 0) -> StagePlan:
        """The plan of a round for the tokens that take part in it.

        Raises:
            ConfigError: windows that do not fit, with the stage named.
        """
        try:
            return self.rounds[turn].plan(layout)
        except ConfigError as error:
            error.field = f"schedule[{self.number}]: {error.field}"
            raise

    def planned(self, layout: VisionLayout) -> Iterator[PlannedRound]:
        """All rounds where the layer holds `layout`, for counting.

        Raises:
            ConfigError: as `plan`.
        """
        layout = self.entering(layout)
        for turn, stage in enumerate(self.rounds):
            planned = PlannedRound(stage, layout, self.plan(layout, turn))
            yield planned
            layout = planned.after()


def round_ratios(ratio: Share, most: float) -> list[Share]:
    """Ratios of rounds that remove `ratio` together: `most` in each but the last."""
    if not isinstance(ratio, dict):
        return list(_rounds(ratio, most))
    each = {name: _rounds(share, most) for name, share in ratio.items()}
    count = max(map(len, each.values()))
    return [
        {name: own[turn] if turn < len(own) else 0.0 for name, own in each.items()}
        for turn in range(count)
    ]


def _rounds(ratio: float, most: float) -> list[float]:
    if most <= 0.0:
        return [0.0]
    goal, left, ratios = 1.0 - ratio, 1.0, []
    while left * (1.0 - most) > goal + 1e-9:
        ratios.append(most)
        left *= 1.0 - most
    return [*ratios, min(most, max(0.0, 1.0 - goal / left))]


def _check_between_layers(number: int, stage: Stage, spec: StageSpec) -> None:
    field, layer = f"schedule[{number}].after_layer", spec.after_layer
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


def _check_on_cache(number: int, stage: Stage, spec: StageSpec) -> None:
    problem = None
    if stage.aggregator.space == "vision":
        problem = (
            f"aggregator {stage.aggregator.name!r} merges what enters the projector, and the cache "
            "holds keys and values"
        )
    elif needs_from(stage.needs, Source.NEXT_LAYER):
        problem = "a layer's cache is compressed before the next layer runs, so nothing can read it"
    elif spec.scope == "all" and needs_from(stage.needs, Source.ENCODER):
        problem = "text entries take part, and the vision encoder says nothing of them"
    if problem is not None:
        raise ConfigError(
            problem,
            field=f"schedule[{number}].site",
            value=spec.site,
            remedy="use other components, or a stage between layers",
        )
