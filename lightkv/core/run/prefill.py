"""One pass of a decoder that compresses. Knows tensors and layouts, no model.

An adapter calls `Prefill.read_attention` from inside the attention call before a stage,
`Prefill.apply` at the stage, and `Prefill.compress_cache` when a layer has filled its cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from lightkv.core.attention import AttentionView
from lightkv.core.contracts import Component, EmbeddingsInput, PositionInput, Scorer, StageContext
from lightkv.core.encoder import VisionView
from lightkv.core.heads import HeadGroup
from lightkv.core.layout import VisionLayout
from lightkv.core.modality import most_removed
from lightkv.core.needs import Needs
from lightkv.core.numerics import check_finite, exact
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.core.pipeline.placed import PlacedStage
from lightkv.core.run.profile import Profiler
from lightkv.core.run.record import PassRecord, StageRecord
from lightkv.core.stage.cache_entries import CachedLayer, CacheWork, reads_in_call
from lightkv.core.stage.checks import Checks, blamed, check_returned
from lightkv.core.stage.plan import StagePlan
from lightkv.core.stage.stage import Readings, reads_attention, reads_embeddings
from lightkv.core.stage.step import StageResult, run_stage
from lightkv.core.transfer import to_device

PlanRule = Callable[[PlacedStage, VisionLayout, torch.device, int], StagePlan]
"""(stage, layout, device, round) → its plan there."""


@dataclass
class Prefill:
    """State of one forward pass that compresses.

    Attributes:
        pipeline: what runs.
        layout: the current layout; `first_layout` is that of the prompt, before any stage.
        run: number of the pass in the session.
        plan: (stage, layout, device, round) → the stage's plan, from those made before if it can.
        heads: the processes that share the attention heads.
        profiler: times the work of each role.
        check_finite: stop with `NumericError` when a stage meets NaN or infinity.
        first: whether it is the first of the session, where what components return is looked at even if
            the host waits for that.
        kept: `[B, N′]` original position of each current position, None before the first stage.
        positions: `[A, B, N′]` rotary positions, None while every token keeps its own.
        vision: the encoder's view of the tokens, where a stage needs it.
        stages_done: the stages between layers that have removed something so far.
        cached: layers whose entries were compressed on the cache site, and how; `cache_plans` by
            which plans.
    """

    pipeline: Pipeline
    layout: VisionLayout
    run: int
    plan: PlanRule
    heads: HeadGroup
    profiler: Profiler
    check_finite: bool = False
    first: bool = False
    kept: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    size: torch.Tensor | None = None
    vision: VisionView | None = None
    stages_done: list[StageRecord] = field(default_factory=list)
    cached: dict[int, CachedLayer] = field(default_factory=dict)
    cache_plans: dict[int, list[StagePlan]] = field(default_factory=dict)
    _readings: dict[int, Readings] = field(default_factory=dict)
    _cache_readings: dict[int, Readings] = field(default_factory=dict)
    _logs: tuple[torch.Tensor, torch.Tensor] | None = None
    _source: tuple[VisionLayout, VisionLayout] | None = None
    _states: dict[int, torch.Tensor | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.first_layout = self.layout

    @property
    def checks(self) -> Checks:
        """Which values of what components return are looked at."""
        return Checks(waits=self.check_finite or self.first, finite=self.check_finite)

    def read_embeddings(self, hidden_states: torch.Tensor) -> None:
        """Show `[B, N, D]`, what enters the decoder, to the scorers that asked for it."""
        scorers = {
            placed.number: placed.stage.scorer
            for placed in self.pipeline.stages
            if placed.stage.scorer is not None and reads_embeddings(placed.stage.scorer)
        }
        if not scorers:
            return
        with torch.no_grad(), exact():
            given = EmbeddingsInput.of(hidden_states, self.layout)
            made: list[tuple[Scorer, torch.Tensor | None]] = []
            for number, scorer in scorers.items():
                # Stages mostly share one scorer, whose start is the same for all of them.
                state = next((s for other, s in made if other == scorer), None)
                if state is None:
                    with blamed(scorer, "read_embeddings"):
                        state = scorer.read_embeddings(given)
                    made.append((scorer, state))
                self._states[number] = state

    def needs(self, after_layer: int) -> Needs:
        """What the stage after that layer reads of attention; empty if there is no stage."""
        placed = self._stage(after_layer)
        return frozenset() if placed is None else placed.needs

    def _stage(self, after_layer: int) -> PlacedStage | None:
        """The stage after that layer, if there is one with anything to do."""
        return self.pipeline.between.get(after_layer) if any(self.layout.vision_counts) else None

    def read_attention(self, after_layer: int, attention: AttentionView) -> None:
        """Let scorer and matcher of the next stage read the attention call of layer λ − 1."""
        placed = self.pipeline.between[after_layer]
        self._readings[after_layer] = self._read(placed, attention, reads_attention)

    def _read(
        self, placed: PlacedStage, attention: AttentionView, reads: Callable[[Component], bool]
    ) -> Readings:
        """What the components of a stage read off an attention call."""
        attention.from_embeddings = self._states.get(placed.number)
        with torch.no_grad():
            return Readings().with_call(placed.stage, attention, reads, self.profiler.timer)

    # -- the cache site ---------------------------------------------------------------------------

    def cache_needs(self) -> Needs:
        """What the stage on the cache reads inside each layer's attention call."""
        placed = self.pipeline.on_cache
        if placed is None or not any(self.layout.vision_counts):
            return frozenset()
        return placed.needs

    def read_cache_attention(self, layer: int, attention: AttentionView) -> None:
        """Let the components of the stage on the cache read the layer's own attention call."""
        assert self.pipeline.on_cache is not None
        placed = self.pipeline.on_cache
        self._cache_readings[layer] = self._read(placed, attention, reads_in_call)

    def compress_cache(
        self, layer: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Shorter key and value `[B, Hₖᵥ, N′, d]` for the entries of this pass in a layer that ran.

        None if they stay as they are.
        """
        placed, device = self.pipeline.on_cache, key.device
        if placed is None or not any(self.layout.original_counts):
            return None
        readings = self._cache_readings.pop(layer, Readings())
        if self.check_finite:
            guidance = readings.scorer_attention
            for name, tensor in (("key", key), ("value", value), ("guidance", guidance)):
                check_finite(name, tensor)
        readings = readings.with_encoder(placed.stage, self.vision).to(device)
        source, plans = self._entering(placed), list[StagePlan]()

        def plan(turn: int, layout: VisionLayout) -> StagePlan:
            plans.append(self.plan(placed, layout, device, turn))
            return plans[-1]

        work = CacheWork(placed.rounds, plan, self.heads, self.profiler.timer, self.checks)
        depth = self.pipeline.num_layers
        context = StageContext(layer + 1, placed.number, self.run, depth, 0.0, layer)
        sizes = self._entry_sizes(source, device)
        done = work.run(key, value, self.layout, source, readings, sizes, context)
        if done is None:
            return None
        self.cached[layer], self.cache_plans[layer] = done[2], plans
        return done[:2]

    def _entering(self, placed: PlacedStage) -> VisionLayout:
        """Who takes part in the cache of a layer; the same object for layers that saw the same."""
        if self._source is None or self._source[0] is not self.layout:
            self._source = self.layout, placed.entering(self.layout)
        return self._source[1]

    def _entry_sizes(self, source: VisionLayout, device: torch.device) -> torch.Tensor | None:
        """`[V]` original tokens that each token of `source` holds after the stages so far."""
        if self.size is None or source is self.layout:
            return None if self.size is None else self.size.to(device)
        size, places = self.size.to(device), self.layout.token_index(device).flat
        rows = size.new_ones(self.layout.batch_size * self.layout.length)
        rows = rows.index_copy(0, places, size)
        return rows.index_select(0, source.token_index(device).flat)

    def log_sizes(self, done: CachedLayer | None = None) -> torch.Tensor | None:
        """`[B, N′]` log of the original tokens that each position holds, if attention is to know.

        Args:
            done: what became of a layer's entries; the tokens between layers if None.
        """
        size, layout = (self.size, self.layout) if done is None else (done.size, done.layout)
        if not self.pipeline.spec.proportional or size is None:
            return None
        if self._logs is None or self._logs[0] is not size:
            rows = size.new_zeros(layout.batch_size * layout.length)
            rows = rows.index_copy(0, layout.token_index(size.device).flat, size.log())
            self._logs = size, rows.view(layout.batch_size, layout.length)
        return self._logs[1]

    # -- between layers ---------------------------------------------------------------------------

    def apply(self, after_layer: int, hidden_states: torch.Tensor) -> torch.Tensor:
        """`[B, N, D]` → `[B, N′, D]` if a stage stands after `after_layer` layers."""
        placed = self._stage(after_layer)
        if placed is None:
            return hidden_states
        stage, device = placed.stage, hidden_states.device
        plan = self.plan(placed, self.layout, device, 0)
        readings = self._readings.pop(after_layer, Readings())
        if not plan.removes:
            return hidden_states
        if self.check_finite:
            check_finite("hidden_states", hidden_states)
            check_finite("guidance", readings.scorer_attention)
        self._follow(device)
        depth, ratio = self.pipeline.num_layers, most_removed(stage.ratio)
        context = StageContext(after_layer, placed.number, self.run, depth, ratio)
        result = run_stage(
            hidden_states,
            self.layout,
            stage,
            plan,
            readings=readings.with_encoder(stage, self.vision).to(device),
            size=self.size,
            context=context,
            timer=self.profiler.timer,
            heads=self.heads,
            checks=self.checks,
        )
        self._move_positions(result, context)
        self._advance(after_layer, placed, plan, result)
        return result.hidden_states

    def _follow(self, device: torch.device) -> None:
        """Bring the state of earlier stages along when the layers lie on several devices."""
        for name in ("kept", "positions", "size"):
            tensor = getattr(self, name)
            if tensor is not None and tensor.device != device:
                setattr(self, name, tensor.to(device))

    def _move_positions(self, result: StageResult, context: StageContext) -> None:
        """Apply the position policy; positions stay None under a policy that keeps them."""
        if self.positions is None:
            return
        device = result.hidden_states.device
        before, after = self.layout.token_index(device), result.layout.token_index(device)
        kept, axes = result.kept, self.positions.shape[0]
        inputs = PositionInput(
            positions=self.positions,
            kept=kept,
            pads=result.layout.pad_counts(device),
            old_pads=self.layout.pad_counts(device),
            vision=after.flat,
            slot=result.assignment.slot,
            share=result.assignment.weight,
            before=before.flat,
        )
        policy = self.pipeline.positions
        with blamed(policy, "positions", context):
            moved = policy.positions(inputs)
        if moved is not None:
            check_returned(
                policy,
                "positions",
                moved,
                wanted="[A, B, N′]",
                shape=(axes, *kept.shape),
                device=device,
                context=context,
                kind=None,
            )
        own, shrunk = self.positions.gather(2, kept.expand(axes, -1, -1)), result.assignment.shrunk
        if moved is not None and not all(shrunk):
            # Alone, a row of which the stage removes nothing would not be touched at all.
            rows = self.layout.once(
                ("shrunk", shrunk, device), lambda: to_device(shrunk, device).bool()[None, :, None]
            )
            moved = torch.where(rows, moved, own.to(moved))
        self.positions = own if moved is None else moved

    def _advance(
        self, after_layer: int, placed: PlacedStage, plan: StagePlan, result: StageResult
    ) -> None:
        kept = result.kept
        self.kept = kept if self.kept is None else self.kept.gather(1, kept)
        self.stages_done.append(
            StageRecord(
                after_layer,
                placed,
                plan,
                before=self.layout,
                after=result.layout,
                assignment=result.assignment,
                score=result.score,
            )
        )
        self.layout = result.layout
        self.size = result.size

    def record(self) -> PassRecord:
        """What the pass did, once it has ended."""
        return PassRecord(
            run=self.run,
            pipeline=self.pipeline,
            layout=self.first_layout,
            stages=tuple(self.stages_done),
            cached=dict(self.cached),
            cache_plans=dict(self.cache_plans),
        )
