"""One compression step as a pure function: tokens and layout in, tokens, layout and assignment out.

Nothing in `run_stage` reads a value on the host: shapes come from the plan, everything else is
index arithmetic on the device. It runs on the `meta` device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from lightkv.core.assignment import DROPPED, Assignment
from lightkv.core.errors import ConfigError
from lightkv.core.heads import HeadGroup
from lightkv.core.layout import TokenIndex, VisionLayout
from lightkv.core.plan import Bucket, StagePlan, plan_stage
from lightkv.core.plugins import build_component, get_preset
from lightkv.core.roles import (
    Aggregator,
    Matcher,
    MatchInput,
    Merged,
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
        if not isinstance(self.ratio, int | float) or not 0.0 <= self.ratio < 1.0:
            raise ConfigError(
                "the removed share must be at least 0 and below 1",
                field="ratio",
                value=self.ratio,
                remedy="0.5 removes half of the current vision tokens",
            )
        sides = self.windows.values() if isinstance(self.windows, dict) else [self.windows or 1]
        if self.windows == 0 or not all(isinstance(n, int) and n >= 1 for n in sides):
            raise ConfigError(
                "windows per side must be whole numbers from 1 on",
                field="windows",
                value=self.windows,
                remedy="such as 4, or {space: 4, time: 2}",
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

    def to(self, device: torch.device) -> Observed:
        """The same on another device."""
        score = None if self.score is None else self.score.to(device)
        return Observed(score, None if self.metric is None else self.metric.to(device))


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
    heads: HeadGroup | None = None,
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
        heads: the processes that must decide alike, this one alone by default.
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
        targets = [work.targets(bucket, stage.matcher) for bucket in plan.buckets]
        targets = (heads or HeadGroup()).agree(targets)
        matches = [work.match(*pair) for pair in zip(plan.buckets, targets, strict=True)]
    with timer("aggregation"):
        return work.finish(layout, matches, stage.aggregator)


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
    """The matching of a bucket: everything but the hidden states, which are gathered in blocks.

    Attributes:
        tokens: `[G, n]` batch-wide vision token numbers.
        target, survivors: as in `MergeInput`.
    """

    bucket: Bucket
    tokens: torch.Tensor
    target: torch.Tensor
    survivors: torch.Tensor


BLOCK_SHARE = 8
"""Windows are worked on in blocks of at most this fraction of the hidden states."""
BLOCK_ELEMENTS = 2**18
"""…but of at least so many elements."""


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
        keys = plan.order if plan.by == "rank" else plan.order.index_select(0, index.origin)
        self.order = torch.sort(keys, stable=True).indices

    def _blocks(self, bucket: Bucket) -> Iterator[slice]:
        """Runs of windows whose features fit the block size."""
        windows = bucket.gather.shape[0]
        budget = max(BLOCK_ELEMENTS, self.rows.numel() // BLOCK_SHARE)
        step = max(1, budget // (bucket.population * self.rows.shape[1]))
        for start in range(0, windows, step):
            yield slice(start, min(windows, start + step))

    def targets(self, bucket: Bucket, matcher: Matcher) -> torch.Tensor:
        """`[G, n]` what the matcher says of the windows of a bucket."""
        tokens = self.order[bucket.gather]
        blocks = self._blocks(bucket)
        return torch.cat([self._match_block(tokens[b], bucket.keep, matcher) for b in blocks])

    def match(self, bucket: Bucket, target: torch.Tensor) -> _Match:
        tokens = self.order[bucket.gather]
        places = torch.arange(bucket.population, device=target.device)
        leaves = (target != places).to(torch.uint8)
        survivors = torch.sort(leaves, dim=-1, stable=True).indices[:, : bucket.keep]
        return _Match(bucket, tokens, target, survivors)

    def _match_block(self, tokens: torch.Tensor, keep: int, matcher: Matcher) -> torch.Tensor:
        flat = self.index.flat[tokens]
        return matcher.match(
            MatchInput(
                tokens=self.rows[flat],
                keep=keep,
                score=None if self.score is None else self.score[tokens],
                size=self.size[tokens],
                observed=None if self.metric is None else self.metric[flat],
                context=self.context,
            )
        )

    def _merge_block(self, match: _Match, block: slice, aggregator: Aggregator) -> Merged:
        tokens = match.tokens[block]
        return aggregator.merge(
            MergeInput(
                tokens=self.rows[self.index.flat[tokens]],
                target=match.target[block],
                survivors=match.survivors[block],
                score=None if self.score is None else self.score[tokens],
                size=self.size[tokens],
                context=self.context,
            )
        )

    def finish(
        self, layout: VisionLayout, matches: list[_Match], aggregator: Aggregator
    ) -> StageResult:
        plan, device = self.plan, self.rows.device
        listed = [match.tokens.gather(1, match.survivors).flatten() for match in matches]
        listed.append(self.order[plan.passing])
        survivor = torch.sort(torch.cat(listed)).values
        slot_of = torch.full((self.index.flat.numel(),), DROPPED, device=device)
        slot_of = slot_of.scatter(0, survivor, torch.arange(survivor.numel(), device=device))
        kept, places, index = self._sequence(survivor)
        hidden = self.rows.index_select(0, kept)
        shares = [self._merge(hidden, places, slot_of, match, aggregator) for match in matches]
        assignment = self._assignment(matches, shares, slot_of, survivor)
        length = plan.length
        offsets = torch.arange(self.batch, device=device)[:, None] * self.before_length
        return StageResult(
            hidden_states=hidden.view(self.batch, length, -1),
            layout=layout.evolved(length, plan.groups, plan.pads, index),
            assignment=assignment,
            size=assignment.pooled(self.size),
            kept=kept.view(self.batch, length) - offsets,
            score=self.score,
        )

    def _merge(
        self,
        hidden: torch.Tensor,
        places: torch.Tensor,
        slot_of: torch.Tensor,
        match: _Match,
        aggregator: Aggregator,
    ) -> torch.Tensor:
        """Write the survivors of a bucket into `hidden` `[B·N′, D]`; `[G, n]` shares."""
        shares = []
        for block in self._blocks(match.bucket):
            merged = self._merge_block(match, block, aggregator)
            shares.append(merged.share)
            if merged.tokens is None:
                continue
            survivors = match.tokens[block].gather(1, match.survivors[block]).flatten()
            # `hidden` is a fresh tensor, so writing in place touches nobody's memory.
            hidden.index_copy_(
                0, places[slot_of[survivors]], merged.tokens.flatten(0, 1).to(hidden.dtype)
            )
        return torch.cat(shares)

    def _assignment(
        self,
        matches: list[_Match],
        shares: list[torch.Tensor],
        slot_of: torch.Tensor,
        survivor: torch.Tensor,
    ) -> Assignment:
        slot = slot_of
        weight = torch.ones(slot.numel(), device=slot.device)
        for match, share in zip(matches, shares, strict=True):
            target = match.tokens.gather(1, match.target.clamp(min=0))
            goes = torch.where(match.target >= 0, slot_of[target], DROPPED)
            where = match.tokens.flatten()
            slot = slot.scatter(0, where, goes.flatten())
            weight = weight.scatter(0, where, share.detach().float().flatten())
        plan = self.plan
        return Assignment(slot, weight, survivor, plan.counts_before, plan.counts_after)

    def _sequence(self, survivor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, TokenIndex]:
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
