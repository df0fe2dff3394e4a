"""One compression step as a pure function: tokens and layout in, tokens, layout and assignment out.

Nothing in `run_stage` reads a value on the host (but for dynamic budgets, which say so): shapes come
from the plan, everything else is index arithmetic on the device. It runs on the `meta` device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from lightkv.core.assignment import DROPPED, Assignment
from lightkv.core.cells import Cells
from lightkv.core.contracts import (
    Aggregator,
    Matcher,
    MatchInput,
    Merged,
    MergeInput,
    ScoreInput,
    StageContext,
    Surroundings,
)
from lightkv.core.errors import ConfigError
from lightkv.core.heads import HeadGroup
from lightkv.core.layout import TokenIndex, VisionLayout
from lightkv.core.modality import most_removed, removed
from lightkv.core.numerics import exact
from lightkv.core.prompt import given_prompt
from lightkv.core.stage.checks import (
    Checks,
    blamed,
    check_counts,
    check_importances,
    check_merged,
    check_returned,
    check_score,
    check_survivors,
    check_targets,
)
from lightkv.core.stage.plan import Bucket, StagePlan
from lightkv.core.stage.stage import Readings, Stage, Timer, no_timer


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


NO_WAIT = Checks()


@exact()
def run_stage(
    hidden_states: torch.Tensor,
    layout: VisionLayout,
    stage: Stage,
    plan: StagePlan,
    *,
    readings: Readings | None = None,
    size: torch.Tensor | None = None,
    context: StageContext | None = None,
    timer: Timer = no_timer,
    heads: HeadGroup | None = None,
    checks: Checks = NO_WAIT,
) -> StageResult:
    """Compress the vision tokens of a batch by one stage.

    Args:
        hidden_states: `[B, N, D]`.
        layout: layout of these hidden states.
        stage: components.
        plan: `stage.plan(layout)` on the device of `hidden_states`.
        readings: what the components read off the attention call and the encoder.
        size: `[V]` original tokens that each vision token holds; ones if None. Counted in float32,
            where whole numbers are exact up to 2²⁴.
        context: where the stage runs.
        timer: called with a role's name around its work.
        heads: the processes that must decide alike, this one alone by default.
        checks: which values of what components return are looked at; those on the host by default.

    Raises:
        ConfigError: a component returned what its role does not allow.
        NumericError: importances below 0 or, where asked for, NaN and infinity.
    """
    group = heads or HeadGroup()
    device = hidden_states.device
    index = layout.token_index(device)
    context = context or StageContext(ratio=most_removed(stage.ratio))
    readings = readings or Readings()
    readings.check(stage, layout, context)
    if size is None:
        size = torch.ones(index.flat.numel(), dtype=torch.float32, device=device)
    size = size.float()
    with timer("scoring"):
        score = _score(hidden_states, layout, index, stage, plan, readings, size, context)
        if score is not None and stage.scorer is not None:
            check_importances(stage.scorer, score, context, checks)
    around = None
    if stage.matcher.needs_surroundings:
        around = Surroundings(
            hidden_states, given_prompt(layout, device), readings.matcher_attention
        )
    cells = None
    if stage.matcher.needs_cells or stage.aggregator.needs_cells:
        cells = layout.cells(device)
    work = _StageWork(
        hidden_states, index, plan, score, size, readings, context, around, cells, stage.ratio
    )
    if stage.matcher.dynamic and plan.removes:
        counts = work.counts(stage.matcher, group)
        plan = stage.plan(layout, counts).to(device)
        work = replace(work, plan=plan)
    with timer("matching"):
        targets = group.agree([work.targets(bucket, stage.matcher) for bucket in plan.buckets])
        for bucket, target in zip(plan.buckets, targets, strict=True):
            check_survivors(stage.matcher, target, bucket.keep, bucket.windows, context, checks)
        matches = [work.match(*pair) for pair in zip(plan.buckets, targets, strict=True)]
    with timer("aggregation"):
        return work.finish(layout, matches, stage.aggregator)


def _score(
    hidden_states: torch.Tensor,
    layout: VisionLayout,
    index: TokenIndex,
    stage: Stage,
    plan: StagePlan,
    readings: Readings,
    size: torch.Tensor,
    context: StageContext,
) -> torch.Tensor | None:
    if stage.scorer is None:
        return None
    seen = readings.scorer_encoder
    inputs = ScoreInput(
        hidden_states,
        index.flat,
        plan.token_rank,
        size,
        readings.scorer_attention,
        context,
        None if seen is None else seen.index_select(0, index.origin),
        plan.window if plan.by == "rank" else plan.window.index_select(0, index.origin),
        plan.counts_before,
        layout,
    )
    with blamed(stage.scorer, "score", context):
        score = stage.scorer.score(inputs)
    check_score(stage.scorer, score, index.flat.numel(), hidden_states.device, context)
    return score


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
CPU_BLOCK = 2**20
"""On a CPU a block has no more elements than this (a single window may): about what its caches hold."""


@dataclass(frozen=True)
class _StageWork:
    """The steps of `run_stage` that share the same tensors."""

    hidden_states: torch.Tensor
    index: TokenIndex
    plan: StagePlan
    score: torch.Tensor | None
    size: torch.Tensor
    readings: Readings
    context: StageContext
    around: Surroundings | None
    cells: Cells | None
    ratio: float | Mapping[str, float]

    @cached_property
    def rows(self) -> torch.Tensor:
        """`[B·N, D]` all positions."""
        return self.hidden_states.reshape(-1, self.hidden_states.shape[-1])

    @cached_property
    def metric(self) -> torch.Tensor | None:
        """`[B·N, M]` what the matcher read off the attention call."""
        metric = self.readings.matcher_attention
        return None if metric is None else metric.flatten(0, 1)

    @cached_property
    def order(self) -> torch.Tensor:
        """`[V]` vision tokens, sorted by window."""
        keys = self.plan.order
        if self.plan.by == "cell":
            keys = keys.index_select(0, self.index.origin)
        return torch.sort(keys, stable=True).indices

    def _blocks(self, bucket: Bucket) -> Iterator[slice]:
        """Runs of windows whose features fit the block size."""
        windows = bucket.gather.shape[0]
        share = self.rows.numel() // BLOCK_SHARE
        if self.rows.device.type == "cpu":
            share = min(share, CPU_BLOCK)
        budget = max(BLOCK_ELEMENTS, share)
        step = max(1, budget // (bucket.population * self.rows.shape[1]))
        for start in range(0, windows, step):
            yield slice(start, min(windows, start + step))

    def counts(self, matcher: Matcher, group: HeadGroup) -> dict[int, int]:
        """Survivors of each window under a dynamic budget: the one place that waits for values."""
        found: dict[int, int] = {}
        asked = []
        for bucket in self.plan.buckets:
            tokens = self.order[bucket.gather]
            parts = [
                self._counted(matcher, tokens[block], bucket) for block in self._blocks(bucket)
            ]
            asked.append(torch.cat(parts))
        for bucket, counts in zip(self.plan.buckets, group.agree(asked), strict=True):
            if counts.is_meta:
                raise ConfigError(
                    f"matcher {matcher.name!r} decides from values how many tokens survive, and on "
                    "the meta device there are none",
                    field="matcher",
                    remedy="give it a fixed budget to count with",
                )
            told = counts.tolist()
            check_counts(matcher, told, bucket.keep, bucket.population, self.context)
            found.update(zip(bucket.windows.tolist(), told, strict=True))
        return found

    def _counted(self, matcher: Matcher, tokens: torch.Tensor, bucket: Bucket) -> torch.Tensor:
        """`[G]` what the matcher counts in windows whose tokens are `[G, n]`."""
        with blamed(matcher, "count", self.context):
            counts = matcher.count(self._match_input(tokens, bucket))
        check_returned(
            matcher,
            "count",
            counts,
            wanted="[G]",
            shape=tokens.shape[:1],
            device=self.rows.device,
            context=self.context,
            kind="whole numbers",
            remedy="return the survivors of each window, from 0 to inputs.keep",
        )
        return counts

    def targets(self, bucket: Bucket, matcher: Matcher) -> torch.Tensor:
        """`[G, n]` what the matcher says of the windows of a bucket."""
        tokens = self.order[bucket.gather]
        blocks = self._blocks(bucket)
        return torch.cat([self._matched(matcher, tokens[block], bucket) for block in blocks])

    def _matched(self, matcher: Matcher, tokens: torch.Tensor, bucket: Bucket) -> torch.Tensor:
        """`[G, n]` what the matcher says of windows whose tokens are `[G, n]`."""
        with blamed(matcher, "match", self.context):
            target = matcher.match(self._match_input(tokens, bucket))
        shape = (tokens.shape[0], bucket.population)
        check_targets(matcher, target, shape, self.rows.device, self.context)
        return target

    def match(self, bucket: Bucket, target: torch.Tensor) -> _Match:
        tokens = self.order[bucket.gather]
        places = torch.arange(bucket.population, device=target.device)
        leaves = (target != places).to(torch.uint8)
        survivors = torch.sort(leaves, dim=-1, stable=True).indices[:, : bucket.keep]
        return _Match(bucket, tokens, target, survivors)

    def _context(self, bucket: Bucket) -> StageContext:
        """Where the stage runs; its ratio is that of the windows' modality if they have their own."""
        if bucket.modality is None:
            return self.context
        return replace(self.context, ratio=removed(self.ratio, bucket.modality))

    def _match_input(self, tokens: torch.Tensor, bucket: Bucket) -> MatchInput:
        flat, origin = self.index.flat[tokens], self.index.origin[tokens]
        seen, inner = self.readings.matcher_encoder, self.plan.inner
        return MatchInput(
            tokens=_rows(self.rows, flat),
            keep=bucket.keep,
            score=None if self.score is None else self.score[tokens],
            size=self.size[tokens],
            from_attention=None if self.metric is None else self.metric[flat],
            context=self._context(bucket),
            from_encoder=None if seen is None else seen[origin],
            inner=None if inner is None else inner[origin],
            row=flat[:, 0] // self.hidden_states.shape[1],
            around=self.around,
            cells=self._cells(origin, bucket),
        )

    def _cells(self, origin: torch.Tensor, bucket: Bucket) -> Cells | None:
        """`[G, n]` what the tokens of a bucket show, if anybody asks."""
        return None if self.cells is None else self.cells.at(origin).within(bucket.extent)

    def _merge_block(self, match: _Match, block: slice, aggregator: Aggregator) -> Merged:
        tokens = match.tokens[block]
        origin = self.index.origin[tokens]
        seen, features = self.readings.aggregator_encoder, self.readings.features
        flat, bucket = self.index.flat[tokens], match.bucket
        inputs = MergeInput(
            tokens=_rows(self.rows, flat) if features is None else features[origin],
            target=match.target[block],
            survivors=match.survivors[block],
            score=None if self.score is None else self.score[tokens],
            size=self.size[tokens],
            context=self._context(bucket),
            from_encoder=None if seen is None else seen[origin],
            cells=self._cells(origin, bucket),
        )
        with blamed(aggregator, "merge", self.context):
            merged = aggregator.merge(inputs)
        width, device = inputs.tokens.shape[-1], self.rows.device
        shape = (tokens.shape[0], bucket.population)
        check_merged(aggregator, merged, shape, bucket.keep, width, device, self.context)
        if merged.tokens is None or self.readings.project is None:
            return merged
        return replace(merged, tokens=self.readings.project(merged.tokens))

    def finish(
        self, layout: VisionLayout, matches: list[_Match], aggregator: Aggregator
    ) -> StageResult:
        plan, device = self.plan, self.rows.device
        batch, before, _ = self.hidden_states.shape
        listed = [match.tokens.gather(1, match.survivors).flatten() for match in matches]
        listed.append(self.order[plan.passing])
        survivor = torch.sort(torch.cat(listed)).values
        slot_of = torch.full((self.index.flat.numel(),), DROPPED, dtype=torch.long, device=device)
        slot_of = slot_of.scatter(0, survivor, torch.arange(survivor.numel(), device=device))
        kept, places, index = self._sequence(survivor)
        hidden = self.rows.index_select(0, kept)
        shares = [self._merge(hidden, places, slot_of, match, aggregator) for match in matches]
        assignment = self._assignment(matches, shares, slot_of, survivor)
        length = plan.length
        offsets = torch.arange(batch, device=device)[:, None] * before
        return StageResult(
            hidden_states=hidden.view(batch, length, -1),
            layout=layout.evolved(length, plan.groups, plan.pads, index, plan.facts),
            assignment=assignment,
            size=assignment.pooled(self.size),
            kept=kept.view(batch, length) - offsets,
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
        weight = torch.ones(slot.numel(), dtype=torch.float32, device=slot.device)
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
            batch, before, _ = self.hidden_states.shape
            offsets = torch.arange(batch, device=flat.device) * before
            kept = offsets.repeat_interleave(plan.length, output_size=batch * plan.length)
            kept = kept.scatter(0, plan.fill, everything)
        return kept, places, TokenIndex(places, index.origin[survivor], text)


def _rows(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """`[R, D]` at `[G, n]` → `[G, n, D]`; whole rows are copied, several times as fast as indexing."""
    return values.index_select(0, places.flatten()).view(*places.shape, -1)
