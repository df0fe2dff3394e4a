"""A stage: the components of one compression step, and what they took from model and encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from lightkv.core.attention import EMBEDDINGS, NEXT_LAST_ROW
from lightkv.core.contracts import Aggregator, Component, Matcher, Partitioner, Scorer, WindowSpec
from lightkv.core.encoder import VISION_FEATURES, VisionView, is_vision
from lightkv.core.errors import ConfigError
from lightkv.core.layout import VisionLayout
from lightkv.core.numerics import as_here, exact
from lightkv.core.plugins import build_component, get_preset
from lightkv.core.sizes import Flops, StageSizes
from lightkv.core.stage.plan import StagePlan, plan_stage
from lightkv.core.stage.windows import wrong_windows
from lightkv.core.strict import is_number, python_values

STAGE_ROLES = ("partitioner", "scorer", "matcher", "aggregator")


@dataclass(frozen=True)
class Stage:
    """The components of one compression step and how much it removes.

    Raises:
        ConfigError: a ratio outside [0, 1) or above what the matcher can do in one stage, a
            component that needs a scorer where there is none, or components that read the
            attention of different layers.
    """

    partitioner: Partitioner
    matcher: Matcher
    aggregator: Aggregator
    scorer: Scorer | None = None
    ratio: float = 0.5
    windows: WindowSpec = None

    def __post_init__(self) -> None:
        if not is_number(self.ratio) or not 0.0 <= self.ratio < 1.0:
            raise ConfigError(
                "the removed share must be at least 0 and below 1",
                field="ratio",
                value=self.ratio,
                remedy="0.5 removes half of the current vision tokens",
            )
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
        if self.ratio > self.matcher.max_ratio:
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
        others = self.decoder_requires - {NEXT_LAST_ROW}
        if self.peeks and others:
            raise ConfigError(
                "a stage reads the attention of the layer before it or of the layer after it; "
                f"this one needs {NEXT_LAST_ROW} and {', '.join(sorted(others))}",
                field="scorer",
                remedy="combine components that read the same layer",
            )

    @classmethod
    def preset(
        cls, name: str, *, ratio: float = 0.5, windows: WindowSpec = None, **overrides: Any
    ) -> Stage:
        """The stage of a preset: `Stage.preset("lightkv", windows=4, ratio=0.5)`.

        `overrides` replace roles, `scorer="uniform"` or `scorer={"name": …, …}`.
        """
        roles = {**get_preset(name).roles(), **overrides}
        return cls.from_roles(roles, ratio=ratio, windows=windows)

    @classmethod
    def from_roles(cls, roles: dict[str, Any], *, ratio: float, windows: WindowSpec) -> Stage:
        """From role → component, name or `{"name": …, parameter: …}`; other roles are ignored."""
        parts = {
            role: build_component(role, roles[role])
            for role in STAGE_ROLES
            if roles.get(role) is not None
        }
        return cls(**parts, ratio=ratio, windows=windows)  # type: ignore[arg-type]

    @property
    def requires(self) -> frozenset[str]:
        """Attention quantities that the components need from the layer before the stage."""
        needs = self.matcher.needs() | self.aggregator.needs()
        return needs | self.scorer.needs() if self.scorer is not None else needs

    @property
    def decoder_requires(self) -> frozenset[str]:
        """Those of `requires` that the decoder's attention must meet."""
        return from_attention(self.requires)

    @property
    def peeks(self) -> bool:
        """Whether the attention that is read is that of the layer after the stage."""
        return NEXT_LAST_ROW in self.requires

    @property
    def vision_requires(self) -> frozenset[str]:
        """Those of `requires` that the vision encoder must meet."""
        needs = frozenset(need for need in self.requires if is_vision(need))
        return needs | {VISION_FEATURES} if self.aggregator.space == "vision" else needs

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
            lambda n: self.matcher.keep(n, self.ratio),
            counts,
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
        total = sizes.attention(self.requires if first else needs)
        total += self.matcher.flops(sizes) + self.aggregator.flops(sizes)
        return total if self.scorer is None else total + self.scorer.flops(sizes)


def from_attention(needs: frozenset[str]) -> frozenset[str]:
    """The requirements that an attention call of the decoder meets."""
    return frozenset(n for n in needs if not is_vision(n) and n != EMBEDDINGS)


def observes(component: Component | None) -> bool:
    """Whether a component's `observe` has to be called."""
    return component is not None and bool(from_attention(component.needs()))


@dataclass(frozen=True)
class Observed:
    """What the components took from the attention call before the stage and from the encoder.

    Attributes:
        score, metric: `[B, N]`, `[B, N, M]` from the attention call, for scorer and matcher.
        seen_score, seen_metric, seen_content: `[V₀]`, `[V₀, M]` and `[V₀, M]` from the encoder, for
            scorer, matcher and aggregator.
        features: `[V₀, Dᵥ]` what entered the projector, for an aggregator that merges there.
        project: the projector, with `features`.
    """

    score: torch.Tensor | None = None
    metric: torch.Tensor | None = None
    seen_score: torch.Tensor | None = None
    seen_metric: torch.Tensor | None = None
    seen_content: torch.Tensor | None = None
    features: torch.Tensor | None = None
    project: Callable[[torch.Tensor], torch.Tensor] | None = None

    def to(self, device: torch.device) -> Observed:
        """The same on another device."""
        moved: dict[str, Any] = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        return replace(self, **moved)

    def looked(self, stage: Stage, vision: VisionView | None) -> Observed:
        """With what the components of a stage see in the encoder's view."""
        if not stage.vision_requires:
            return self
        if vision is None:
            raise ConfigError(
                "the stage reads the vision encoder "
                f"({', '.join(sorted(stage.vision_requires))}), and it is not to be had here",
                field="scorer" if stage.scorer and stage.scorer.needs() else "aggregator",
                remedy="use a model whose adapter offers its encoder, or components that read the "
                "decoder",
            )
        in_space = stage.aggregator.space == "vision"
        project = as_here(vision.project) if in_space else None
        with exact():
            return replace(
                self,
                seen_score=stage.scorer.look(vision) if stage.scorer else None,
                seen_metric=stage.matcher.look(vision),
                seen_content=stage.aggregator.look(vision),
                features=vision.features() if in_space else None,
                project=project,
            )
