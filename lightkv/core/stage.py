"""One compression step as a pure function: tokens and layout in, tokens, layout and assignment out.

Nothing in `run_stage` reads a value on the host: shapes come from the plan, everything else is
index arithmetic on the device. It runs on the `meta` device.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from lightkv.core.assignment import DROPPED, Assignment
from lightkv.core.errors import ConfigError
from lightkv.core.layout import TokenIndex, VisionLayout
from lightkv.core.plan import Bucket, StagePlan, plan_stage
from lightkv.core.plugins import build_component, get_preset
from lightkv.core.roles import (
    Aggregator,
    Matcher,
    MatchInput,
    MergeInput,
    Partitioner,
    ScoreInput,
    Scorer,
    StageContext,
    WindowSpec,
)

Timer = Callable[[str], AbstractContextManager[object]]


def no_timer(role: str) -> AbstractContextManager[object]:
    """The timer of a session that does not profile."""
    return nullcontext()


@dataclass(frozen=True)
class Stage:
    """The components of one compression step and how much it removes.

    Raises:
        ConfigError: a ratio outside [0, 1) or above what the matcher can do in one stage, or a
            component that needs a scorer where there is none.
    """

    partitioner: Partitioner
    matcher: Matcher
    aggregator: Aggregator
    scorer: Scorer | None = None
    ratio: float = 0.5
    windows: WindowSpec = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.ratio < 1.0:
            raise ConfigError(
                "the removed share must be at least 0 and below 1",
                field="ratio",
                value=self.ratio,
                remedy="0.5 removes half of the current vision tokens",
            )
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
            for role in ("partitioner", "scorer", "matcher", "aggregator")
            if roles.get(role) is not None
        }
        return cls(**parts, ratio=ratio, windows=windows)  # type: ignore[arg-type]

    @property
    def requires(self) -> frozenset[str]:
        """Attention quantities that the components need from the layer before the stage."""
        needs = self.matcher.needs()
        return needs | self.scorer.needs() if self.scorer is not None else needs

    def plan(self, layout: VisionLayout) -> StagePlan:
        """Windows, budgets and index tables for a layout."""
        return plan_stage(
            layout, self.partitioner, self.windows, lambda n: self.matcher.keep(n, self.ratio)
        )


@dataclass(frozen=True)
class Observed:
    """What scorer and matcher took from the attention call before the stage."""

    score: torch.Tensor | None = None
    metric: torch.Tensor | None = None


@dataclass(frozen=True)
class StageResult:
    """Outcome of a stage.

    Attributes:
        hidden_states: `[B, N′, D]`.
        layout: where the survivors are now.
        assignment: which token flowed into which survivor.
        size: `[V′]` how many original tokens each survivor holds.
        kept: `[B, N′]` where each position of the new sequence was before (0 at new padding).
        score: `[V]` importances used, or None.
    """

    hidden_states: torch.Tensor
    layout: VisionLayout
    assignment: Assignment
    size: torch.Tensor
    kept: torch.Tensor
    score: torch.Tensor | None


def run_stage(
    hidden_states: torch.Tensor,
    layout: VisionLayout,
    stage: Stage,
    plan: StagePlan,
    *,
    observed: Observed | None = None,
    size: torch.Tensor | None = None,
    context: StageContext | None = None,
    timer: Timer = no_timer,
) -> StageResult:
    """Compress the vision tokens of a batch by one stage.

    Args:
        hidden_states: `[B, N, D]`.
        layout: layout of these hidden states.
        stage: components.
        plan: `stage.plan(layout)` on the device of `hidden_states`.
        observed: what the components observed in the attention call before.
        size: `[V]` original tokens that each vision token holds; ones if None.
        context: where the stage runs.
        timer: called with a role's name around its work.
    """
    device = hidden_states.device
    index = layout.token_index(device)
    context = context or StageContext(ratio=stage.ratio)
    observed = observed or Observed()
    if size is None:
        size = torch.ones(index.flat.numel(), device=device)
    with timer("scoring"):
        score = _score(hidden_states, index, stage, plan, observed, size, context)
    work = _StageWork(hidden_states, index, plan, score, size, observed.metric, context)
    with timer("matching"):
        matches = [work.match(bucket, stage.matcher) for bucket in plan.buckets]
    with timer("aggregation"):
        merges = [work.merge(match, stage.aggregator) for match in matches]
        return work.finish(layout, matches, merges)


def _score(
    hidden_states: torch.Tensor,
    index: TokenIndex,
    stage: Stage,
    plan: StagePlan,
    observed: Observed,
    size: torch.Tensor,
    context: StageContext,
) -> torch.Tensor | None:
    if stage.scorer is None:
        return None
    inputs = ScoreInput(hidden_states, index.flat, plan.token_rank, size, observed.score, context)
    return stage.scorer.score(inputs)


@dataclass(frozen=True)
class _Match:
    bucket: Bucket
    tokens: torch.Tensor
    """`[G, n]` batch-wide vision token numbers."""
    features: torch.Tensor
    """`[G, n, D]`."""
    score: torch.Tensor | None
    size: torch.Tensor
    target: torch.Tensor
    survivors: torch.Tensor


class _StageWork:
    """The steps of `run_stage` that share the same tensors."""

    def __init__(
        self,
        hidden_states: torch.Tensor,
        index: TokenIndex,
        plan: StagePlan,
        score: torch.Tensor | None,
        size: torch.Tensor,
        metric: torch.Tensor | None,
        context: StageContext,
    ) -> None:
        self.rows = hidden_states.reshape(-1, hidden_states.shape[-1])
        self.batch = hidden_states.shape[0]
        self.before_length = hidden_states.shape[1]
        self.index = index
        self.plan = plan
        self.score = score
        self.size = size
        self.metric = None if metric is None else metric.reshape(-1, metric.shape[-1])
        self.context = context
        rank = plan.rank if plan.by == "rank" else plan.rank.index_select(0, index.origin)
        self.order = torch.sort(rank, stable=True).indices

    def match(self, bucket: Bucket, matcher: Matcher) -> _Match:
        tokens = self.order[bucket.gather]
        flat = self.index.flat[tokens]
        features = self.rows[flat]
        score = None if self.score is None else self.score[tokens]
        size = self.size[tokens]
        metric = None if self.metric is None else self.metric[flat]
        target = matcher.match(MatchInput(features, bucket.keep, score, size, metric, self.context))
        places = torch.arange(bucket.population, device=target.device)
        leaves = (target != places).to(torch.uint8)
        survivors = torch.sort(leaves, dim=-1, stable=True).indices[:, : bucket.keep]
        return _Match(bucket, tokens, features, score, size, target, survivors)

    def merge(
        self, match: _Match, aggregator: Aggregator
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        merged = aggregator.merge(
            MergeInput(
                match.features,
                match.target,
                match.survivors,
                match.score,
                match.size,
                self.context,
            )
        )
        return merged.tokens, merged.share

    def finish(
        self,
        layout: VisionLayout,
        matches: list[_Match],
        merges: list[tuple[torch.Tensor | None, torch.Tensor]],
    ) -> StageResult:
        plan, device = self.plan, self.rows.device
        listed = [match.tokens.gather(1, match.survivors).flatten() for match in matches]
        listed.append(self.order[plan.passing])
        survivor = torch.sort(torch.cat(listed)).values
        slot_of = torch.full((self.index.flat.numel(),), DROPPED, device=device)
        slot_of = slot_of.scatter(0, survivor, torch.arange(survivor.numel(), device=device))
        assignment = self._assignment(matches, merges, slot_of, survivor)
        kept, places, index = self._sequence(layout, survivor)
        hidden = self.rows.index_select(0, kept)
        hidden = self._write(hidden, places, slot_of, matches, merges)
        length = plan.length
        layout = layout.evolved(length, plan.groups, plan.pads, index)
        size = assignment.pooled(self.size)
        offsets = torch.arange(self.batch, device=device)[:, None] * self.before_length
        kept = kept.view(self.batch, length) - offsets
        hidden = hidden.view(self.batch, length, -1)
        return StageResult(hidden, layout, assignment, size, kept, self.score)

    def _assignment(
        self,
        matches: list[_Match],
        merges: list[tuple[torch.Tensor | None, torch.Tensor]],
        slot_of: torch.Tensor,
        survivor: torch.Tensor,
    ) -> Assignment:
        slot = slot_of
        weight = torch.ones(slot.numel(), device=slot.device)
        for match, (_, share) in zip(matches, merges, strict=True):
            target = match.tokens.gather(1, match.target.clamp(min=0))
            goes = torch.where(match.target >= 0, slot_of[target], DROPPED)
            where = match.tokens.flatten()
            slot = slot.scatter(0, where, goes.flatten())
            weight = weight.scatter(0, where, share.float().flatten())
        plan = self.plan
        return Assignment(slot, weight, survivor, plan.counts_before, plan.counts_after)

    def _sequence(
        self, layout: VisionLayout, survivor: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, TokenIndex]:
        """`[B·N′]` rows kept, `[V′]` new places of the survivors, and the new index."""
        plan, index = self.plan, self.index
        flat = index.flat[survivor]
        everything = torch.sort(torch.cat([index.text, flat])).values
        places = plan.fill[torch.searchsorted(everything, flat)]
        text = plan.fill[torch.searchsorted(everything, index.text)]
        kept = everything
        if plan.filled:
            # New padding repeats the first row of its sample; masks hide it.
            offsets = torch.arange(self.batch, device=flat.device) * self.before_length
            kept = offsets.repeat_interleave(plan.length, output_size=self.batch * plan.length)
            kept = kept.scatter(0, plan.fill, everything)
        return kept, places, TokenIndex(places, index.origin[survivor], text)

    def _write(
        self,
        hidden: torch.Tensor,
        places: torch.Tensor,
        slot_of: torch.Tensor,
        matches: list[_Match],
        merges: list[tuple[torch.Tensor | None, torch.Tensor]],
    ) -> torch.Tensor:
        for match, (tokens, _) in zip(matches, merges, strict=True):
            if tokens is None:
                continue
            survivors = match.tokens.gather(1, match.survivors).flatten()
            where = places[slot_of[survivors]]
            # `hidden` is a fresh tensor, so writing in place touches nobody's memory.
            hidden = hidden.index_copy_(0, where, tokens.flatten(0, 1).to(hidden.dtype))
        return hidden
