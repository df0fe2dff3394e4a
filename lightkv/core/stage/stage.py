"""A stage: the components of one compression step, and what they took from model and encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from lightkv.core.attention import AttentionView
from lightkv.core.contracts import (
    Aggregator,
    AttentionScorer,
    Component,
    Matcher,
    Partitioner,
    Scorer,
    StageContext,
    WindowSpec,
    wrong_windows,
)
from lightkv.core.encoder import VisionView
from lightkv.core.errors import ConfigError
from lightkv.core.layout import VisionLayout
from lightkv.core.modality import check_ratio, most_removed, removed
from lightkv.core.needs import Need, Needs, Source, check_needs, listed, needs_from
from lightkv.core.numerics import as_here, exact
from lightkv.core.plugins import build_component, get_preset
from lightkv.core.sizes import Flops, StageSizes
from lightkv.core.stage.checks import blamed, check_returned
from lightkv.core.stage.plan import StagePlan, plan_stage
from lightkv.core.strict import python_values
from lightkv.core.transfer import all_to_device

STAGE_ROLES = ("partitioner", "scorer", "matcher", "aggregator")


@dataclass(frozen=True)
class Stage:
    """The components of one compression step and how much it removes.

    `ratio` is the share of the current vision tokens that goes, or modality → that of its tokens.

    Raises:
        ConfigError: a ratio outside [0, 1) or above what the matcher can do in one stage, a
            component that needs a scorer where there is none, or components that read the
            attention of different layers.
    """

    partitioner: Partitioner
    matcher: Matcher
    aggregator: Aggregator
    scorer: Scorer | None = None
    ratio: float | Mapping[str, float] = 0.5
    windows: WindowSpec = None

    def __post_init__(self) -> None:
        check_ratio(self.ratio)
        wrong = wrong_windows(self.windows)
        if wrong is not None:
            raise ConfigError(
                wrong,
                field="windows",
                value=self.windows,
                remedy="such as 4, or {space: 4, time: 2}",
            )
        for name in ("ratio", "windows"):
            # Partitioners and matchers are given numbers of Python.
            object.__setattr__(self, name, python_values(getattr(self, name)))
        if most_removed(self.ratio) > self.matcher.max_ratio:
            raise ConfigError(
                f"matcher {self.matcher.name!r} can remove at most "
                f"{self.matcher.max_ratio:g} of the tokens in one stage",
                field="ratio",
                value=self.ratio,
                remedy="add stages: three stages of 0.5 leave an eighth",
            )
        for component in (self.matcher, self.aggregator):
            if component.needs_score and self.scorer is None:
                raise ConfigError(
                    f"{component.role} {component.name!r} needs importances",
                    field="scorer",
                    remedy="add a scorer to the pipeline, such as 'uniform'",
                )
        for part in self.components:
            check_needs(part.needs(), f"{part.role} {part.name!r}, needs")
        before, behind = (
            needs_from(self.needs, source) for source in (Source.ATTENTION, Source.NEXT_LAYER)
        )
        if before and behind:
            raise ConfigError(
                "a stage reads the attention of the layer before it or of the layer after it; "
                f"this one needs {listed(behind)} and {listed(before)}",
                field="scorer",
                remedy="combine components that read the same layer",
            )

    @classmethod
    def preset(
        cls,
        name: str,
        *,
        ratio: float | Mapping[str, float] = 0.5,
        windows: WindowSpec = None,
        **overrides: Any,
    ) -> Stage:
        """The stage of a preset: `Stage.preset("lightkv", windows=4, ratio=0.5)`.

        `overrides` replace roles, `scorer="uniform"` or `scorer={"name": …, …}`.
        """
        roles = {**get_preset(name).roles(), **overrides}
        return cls.from_roles(roles, ratio=ratio, windows=windows)

    @classmethod
    def from_roles(
        cls, roles: dict[str, Any], *, ratio: float | Mapping[str, float], windows: WindowSpec
    ) -> Stage:
        """From role → component, name or `{"name": …, parameter: …}`; other roles are ignored."""
        parts = {
            role: build_component(role, roles[role])
            for role in STAGE_ROLES
            if roles.get(role) is not None
        }
        return cls(**parts, ratio=ratio, windows=windows)  # type: ignore[arg-type]

    @property
    def components(self) -> tuple[Scorer | Matcher | Aggregator, ...]:
        """The components that may read model and encoder."""
        parts = (self.scorer, self.matcher, self.aggregator)
        return tuple(part for part in parts if part is not None)

    @cached_property
    def needs(self) -> Needs:
        """What the components ask of attention, encoder and embeddings."""
        needs = Needs().union(*(component.needs() for component in self.components))
        return needs | {Need.VISION_FEATURES} if self.aggregator.space == "vision" else needs

    def plan(self, layout: VisionLayout, counts: dict[int, int] | None = None) -> StagePlan:
        """Windows, budgets (`counts` where they are dynamic) and index tables for a layout.

        Raises:
            ConfigError: windows that do not fit, or that share a budget under a matcher that knows
                nothing of inner windows.
        """
        plan = plan_stage(
            layout,
            self.partitioner,
            self.windows,
            lambda n, modality: self.matcher.keep(n, removed(self.ratio, modality)),
            counts,
            self.ratio,
        )
        if plan.inner is not None and not self.matcher.knows_inner:
            raise ConfigError(
                f"matcher {self.matcher.name!r} would match across the inner windows of "
                f"{self.partitioner.name!r}",
                field="matcher",
                remedy="use a matcher that keeps to them (`knows_inner`), or a budget for each window",
            )
        return plan

    def flops(self, sizes: StageSizes, *, first: bool = True) -> Flops:
        """FLOPs of the stage for one sample: what its components need of attention, and their own.

        Args:
            sizes: the sample.
            first: false in later rounds on the cache, whose scorer reads no attention of its own.
        """
        if not sizes.vision:
            return Flops()
        needs = self.matcher.needs() | self.aggregator.needs()
        total = sizes.attention(self.needs if first else needs)
        total += self.matcher.flops(sizes) + self.aggregator.flops(sizes)
        return total if self.scorer is None else total + self.scorer.flops(sizes)


def attention_needs(component: Component) -> Needs:
    """What a component reads in `read_attention`."""
    return needs_from(component.needs(), Source.ATTENTION, Source.NEXT_LAYER)


def reads_attention(component: Component) -> bool:
    """Whether a component's `read_attention` has to be called."""
    return bool(attention_needs(component))


def reads_embeddings(component: Component) -> bool:
    """Whether a component's `read_embeddings` has to be called."""
    return Need.EMBEDDINGS in component.needs()


def reads_encoder(component: Component) -> bool:
    """Whether a component's `read_encoder` has to be called."""
    return bool(needs_from(component.needs(), Source.ENCODER))


Timer = Callable[[str], AbstractContextManager[object]]


def no_timer(role: str) -> AbstractContextManager[object]:
    """The timer of a session that does not profile."""
    return nullcontext()


@dataclass(frozen=True)
class Readings:
    """What the components read off the attention call before the stage and off the encoder.

    Attributes:
        scorer_attention, matcher_attention: `[B, N]`, `[B, N, M]` what `read_attention` returned.
        scorer_encoder, matcher_encoder, aggregator_encoder: `[V₀]`, `[V₀, M]` and `[V₀, M]` what
            `read_encoder` returned.
        features: `[V₀, Dᵥ]` what entered the projector, for an aggregator that merges there.
        project: the projector, with `features`.
    """

    scorer_attention: torch.Tensor | None = None
    matcher_attention: torch.Tensor | None = None
    scorer_encoder: torch.Tensor | None = None
    matcher_encoder: torch.Tensor | None = None
    aggregator_encoder: torch.Tensor | None = None
    features: torch.Tensor | None = None
    project: Callable[[torch.Tensor], torch.Tensor] | None = None

    @exact()
    def with_call(
        self,
        stage: Stage,
        attention: AttentionView,
        reads: Callable[[Component], bool] = reads_attention,
        timer: Timer = no_timer,
    ) -> Readings:
        """With what the components of a stage (those for which `reads` is true) read off a call.

        Raises:
            ConfigError: heads are spread over processes, and a component looked at this one's only.
        """
        found: dict[str, Any] = {}
        if stage.scorer is not None and reads(stage.scorer):
            with timer("scoring"):
                found["scorer_attention"] = _read(stage.scorer, attention)
        if reads(stage.matcher):
            with timer("matching"):
                found["matcher_attention"] = _read(stage.matcher, attention)
        return replace(self, **found)

    def to(self, device: torch.device) -> Readings:
        """The same on another device."""
        return all_to_device(self, device)

    def with_encoder(self, stage: Stage, vision: VisionView | None) -> Readings:
        """With what the components of a stage read off the encoder's view."""
        needs = needs_from(stage.needs, Source.ENCODER)
        if not needs:
            return self
        if vision is None:
            raise ConfigError(
                "the stage reads the vision encoder "
                f"({listed(needs)}), and it is not to be had here",
                field="scorer" if stage.scorer and stage.scorer.needs() else "aggregator",
                remedy="use a model whose adapter offers its encoder, or components that read the "
                "decoder",
            )
        in_space = stage.aggregator.space == "vision"
        project = as_here(vision.project) if in_space else None
        found: dict[str, Any] = {}
        with exact():
            for component in stage.components:
                with blamed(component, "read_encoder"):
                    found[f"{component.role}_encoder"] = component.read_encoder(vision)
            features = vision.features() if in_space else None
        return replace(self, features=features, project=project, **found)

    def check(self, stage: Stage, layout: VisionLayout, context: StageContext) -> None:
        """Refuse readings that do not fit the layout of the hidden states.

        Raises:
            ConfigError: with the component, the stage, and both shapes.
        """
        positions = (layout.batch_size, layout.length)
        original = (sum(layout.original_counts),)
        for component in stage.components:
            for source, sides, letters in (
                ("attention", positions, "[B, N"),
                ("encoder", original, "[V₀"),
            ):
                value = getattr(self, f"{component.role}_{source}", None)
                if value is None:
                    continue
                # A scorer that wraps others brings the numbers of each of them side by side.
                plain = source == "attention" and isinstance(component, AttentionScorer)
                more = 0 if plain else max(0, value.dim() - len(sides))
                check_returned(
                    component,
                    f"read_{source}",
                    value,
                    wanted=letters + ", M" * more + "]",
                    shape=(*sides, *[None] * more),
                    device=value.device,
                    context=context,
                    kind=None,
                )


def _read(component: Scorer | Matcher, attention: AttentionView) -> torch.Tensor | None:
    """What a component reads off the attention call, over the heads of all processes."""
    heads = attention.heads
    before = heads.reductions
    with blamed(component, "read_attention"):
        values = component.read_attention(attention)
    if heads.size > 1 and heads.reductions == before:
        raise ConfigError(
            f"the model's heads are spread over {heads.size} processes, and this component reads "
            "those of its own process only",
            field=f"{component.role} {component.name!r}",
            remedy="reduce over heads with attention.heads.sum, .mean, .max or .total "
            "(docs/writing-a-strategy.md, Heads)",
        )
    return values
