"""Runs a pipeline over the layers of one prefill. Knows tensors and layouts, no model.

An adapter calls `Engine.begin` with the layout of a forward pass, then `Prefill.read_attention` from
inside the attention call before a stage, `Prefill.apply` at the stage, and `Engine.finish` at the end.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from lightkv.core.assignment import Assignment
from lightkv.core.attention import AttentionView
from lightkv.core.contracts import EmbeddingsInput, Matcher, PositionInput, Scorer, StageContext
from lightkv.core.cost.flops import DecoderShape
from lightkv.core.encoder import VisionView
from lightkv.core.errors import ConfigError
from lightkv.core.heads import HeadGroup
from lightkv.core.layout import VisionLayout
from lightkv.core.needs import Needs, Source, needs_from
from lightkv.core.numerics import check_finite, exact
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.core.run.profile import Profiler
from lightkv.core.run.report import HeldLayer, RunReport, build_report
from lightkv.core.run.reports import Reports
from lightkv.core.stage.cache_entries import (
    CachedLayer,
    CacheWork,
    entries_layout,
    needs_keys_only,
    needs_of_call,
    planned,
)
from lightkv.core.stage.plan import StagePlan
from lightkv.core.stage.stage import Readings, reads_attention, reads_embeddings
from lightkv.core.stage.step import StageResult, run_stage
from lightkv.core.transfer import to_device

PLAN_CACHE = 64
"""Plans kept for layouts seen lately (a server sees few shapes again and again)."""
LAYOUT_CACHE = 16
"""Layouts kept, with the index tensors derived from them: 0.5 MB each at 65,536 tokens, for a table."""


@dataclass
class Prefill:
    """State of one forward pass that compresses.

    Attributes:
        layout: the current layout; `lengths` and `layouts` what each layer saw.
        kept: `[B, N′]` original position of each current position, None before the first stage.
        positions: `[A, B, N′]` rotary positions, None while every token keeps its own.
        vision: the encoder's view of the tokens, where a stage needs it.
        trace: the assignments of the stages so far.
        cached: layers whose entries were compressed on the cache site, and how; `cache_costs` what
            that took for each row, by the layout that the layer saw.
    """

    engine: Engine
    layout: VisionLayout
    run: int
    kept: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    size: torch.Tensor | None = None
    vision: VisionView | None = None
    trace: list[Assignment] = field(default_factory=list)
    scores: list[torch.Tensor | None] = field(default_factory=list)
    stages_done: list[tuple[int, VisionLayout, VisionLayout]] = field(default_factory=list)
    cached: dict[int, CachedLayer] = field(default_factory=dict)
    cache_costs: dict[str, list[int]] = field(default_factory=dict)
    _readings: dict[int, Readings] = field(default_factory=dict)
    _cache_readings: dict[int, Readings] = field(default_factory=dict)
    _logs: tuple[torch.Tensor, torch.Tensor] | None = None
    _source: tuple[VisionLayout, VisionLayout] | None = None
    _states: dict[int, torch.Tensor | None] = field(default_factory=dict)

    def read_embeddings(self, hidden_states: torch.Tensor, drafts: int = 0) -> None:
        """Show `[B, N, D]`, what enters the decoder, to the scorers that asked for it.

        The last `drafts` positions are guesses (assisted decoding) and no part of the prompt.
        """
        scorers = {
            number: stage.scorer
            for number, stage in enumerate(self.engine.pipeline.stages)
            if stage.scorer is not None and reads_embeddings(stage.scorer)
        }
        if not scorers:
            return
        with torch.no_grad(), exact():
            given = EmbeddingsInput.of(hidden_states, self.layout, drafts)
            made: list[tuple[Scorer, torch.Tensor | None]] = []
            for number, scorer in scorers.items():
                # Stages mostly share one scorer, whose start is the same for all of them.
                state = next((s for other, s in made if other == scorer), None)
                if state is None:
                    state = scorer.read_embeddings(given)
                    made.append((scorer, state))
                self._states[number] = state

    def needs(self, after_layer: int) -> Needs:
        """What the stage after that layer reads of attention; empty if there is no stage."""
        number = self.engine.pipeline.after_layers.get(after_layer)
        if number is None or not any(self.layout.vision_counts):
            return frozenset()
        needs = self.engine.pipeline.stages[number].needs
        return needs_from(needs, Source.ATTENTION, Source.NEXT_LAYER)

    def read_attention(self, after_layer: int, attention: AttentionView) -> None:
        """Let scorer and matcher of the next stage read the attention call of layer λ − 1."""
        number = self.engine.pipeline.after_layers[after_layer]
        self._readings[number] = self._read(number, attention)

    def _read(self, number: int, attention: AttentionView, *, with_keys: bool = True) -> Readings:
        """What the components of a stage read off an attention call."""
        stage, profiler = self.engine.pipeline.stages[number], self.engine.profiler
        score = metric = None
        attention.from_embeddings = self._states.get(number)
        with torch.no_grad():
            if stage.scorer is not None and self._reads(stage.scorer, with_keys):
                with profiler.timer("scoring"):
                    score = _read_attention(stage.scorer, attention)
            if self._reads(stage.matcher, with_keys):
                with profiler.timer("matching"):
                    metric = _read_attention(stage.matcher, attention)
        return Readings(score, metric)

    @staticmethod
    def _reads(component: Scorer | Matcher, with_keys: bool) -> bool:
        """Whether `read_attention` is called here; cached keys are read where they lie."""
        return reads_attention(component) and (with_keys or not needs_keys_only(component))

    # -- the cache site ---------------------------------------------------------------------------

    def cache_needs(self) -> Needs:
        """What the stage on the cache reads inside each layer's attention call."""
        rounds = self.engine.pipeline.rounds
        if not rounds or not any(self.layout.vision_counts):
            return frozenset()
        return needs_of_call(rounds[0])

    def read_cache_attention(self, layer: int, attention: AttentionView) -> None:
        """Let the components of the stage on the cache read the layer's own attention call."""
        number = len(self.engine.pipeline.stages) - 1
        self._cache_readings[layer] = self._read(number, attention, with_keys=False)

    def compress_cache(
        self, layer: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Shorter key and value `[B, Hₖᵥ, N′, d]` for the entries of this pass in a layer that ran.

        None if they stay as they are.
        """
        engine, pipeline = self.engine, self.engine.pipeline
        if not pipeline.rounds or not any(self.layout.original_counts):
            return None
        number, device, stage = len(pipeline.stages) - 1, key.device, pipeline.rounds[0]
        readings = self._cache_readings.pop(layer, Readings())
        if engine.check_finite:
            for name, tensor in (
                ("key", key),
                ("value", value),
                ("guidance", readings.scorer_attention),
            ):
                check_finite(name, tensor)
        readings = readings.with_encoder(stage, self.vision).to(device)
        source = self._entries(number)
        work = CacheWork(
            pipeline.rounds,
            lambda turn, layout: engine.plan(number, layout, device, turn),
            _read_attention,
            engine.heads,
            engine.profiler.timer,
        )
        context = StageContext(layer + 1, number, self.run, pipeline.num_layers, 0.0, layer)
        sizes = self._entry_sizes(source, device)
        done = work.run(key, value, self.layout, source, readings, sizes, context)
        if done is None:
            return None
        self.cached[layer] = done[2]
        return done[:2]

    def _entries(self, number: int) -> VisionLayout:
        """Who takes part in the cache of a layer; the same object for layers that saw the same."""
        if self._source is None or self._source[0] is not self.layout:
            scope = self.engine.pipeline.schedule.stages[number].scope
            self._source = self.layout, entries_layout(self.layout, scope)
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
        if not self.engine.pipeline.spec.proportional or size is None:
            return None
        if self._logs is None or self._logs[0] is not size:
            rows = size.new_zeros(layout.batch_size * layout.length)
            rows = rows.index_copy(0, layout.token_index(size.device).flat, size.log())
            self._logs = size, rows.view(layout.batch_size, layout.length)
        return self._logs[1]

    # -- between layers ---------------------------------------------------------------------------

    def apply(self, after_layer: int, hidden_states: torch.Tensor) -> torch.Tensor:
        """`[B, N, D]` → `[B, N′, D]` if a stage stands after `after_layer` layers."""
        pipeline = self.engine.pipeline
        number = pipeline.after_layers.get(after_layer)
        if number is None or not any(self.layout.vision_counts):
            return hidden_states
        stage = pipeline.stages[number]
        plan = self.engine.plan(number, self.layout, hidden_states.device)
        readings = self._readings.pop(number, Readings())
        if not plan.removes:
            return hidden_states
        self._check(hidden_states, readings)
        self._follow(hidden_states.device)
        readings = readings.with_encoder(stage, self.vision).to(hidden_states.device)
        context = StageContext(after_layer, number, self.run, pipeline.num_layers, stage.ratio)
        result = run_stage(
            hidden_states,
            self.layout,
            stage,
            plan,
            readings=readings,
            size=self.size,
            context=context,
            timer=self.engine.profiler.timer,
            heads=self.engine.heads,
        )
        self._move_positions(result)
        self._advance(after_layer, result)
        return result.hidden_states

    def _check(self, hidden_states: torch.Tensor, readings: Readings) -> None:
        if self.engine.check_finite:
            check_finite("hidden_states", hidden_states)
            check_finite("guidance", readings.scorer_attention)

    def _follow(self, device: torch.device) -> None:
        """Bring the state of earlier stages along when the layers lie on several devices."""
        for name in ("kept", "positions", "size"):
            tensor = getattr(self, name)
            if tensor is not None and tensor.device != device:
                setattr(self, name, tensor.to(device))

    def _move_positions(self, result: StageResult) -> None:
        """Apply the position policy; positions stay None under a policy that keeps them."""
        if self.positions is None:
            return
        device = result.hidden_states.device
        before, after = self.layout.token_index(device), result.layout.token_index(device)
        kept, axes = result.kept, self.positions.shape[0]
        moved = self.engine.pipeline.positions.positions(
            PositionInput(
                positions=self.positions,
                kept=kept,
                pads=result.layout.pad_counts(device),
                old_pads=self.layout.pad_counts(device),
                vision=after.flat,
                slot=result.assignment.slot,
                share=result.assignment.weight,
                before=before.flat,
            )
        )
        own, shrunk = self.positions.gather(2, kept.expand(axes, -1, -1)), result.assignment.shrunk
        if moved is not None and not all(shrunk):
            # Alone, a row of which the stage removes nothing would not be touched at all.
            rows = self.layout.once(
                ("shrunk", shrunk, device), lambda: to_device(shrunk, device).bool()[None, :, None]
            )
            moved = torch.where(rows, moved, own.to(moved))
        self.positions = own if moved is None else moved

    def _advance(self, after_layer: int, result: StageResult) -> None:
        kept = result.kept
        self.kept = kept if self.kept is None else self.kept.gather(1, kept)
        self.stages_done.append((after_layer, self.layout, result.layout))
        self.layout = result.layout
        self.size = result.size
        self.trace.append(result.assignment)
        self.scores.append(result.score)


class Engine:
    """A pipeline bound to a decoder, with its plans, reports and profiler.

    Args:
        pipeline: built for the decoder's depth.
        shape: sizes for counting.
        profile: measure times (synchronises a GPU around each role).
        trace: keep assignments and importances with each report (`RunReport.provenance`).
        check_finite: stop with `NumericError` when a stage meets NaN or infinity (reads a value on
            the host at each stage). Off, a NaN goes where it would have gone without compression.
        heads: the processes that share the attention heads, this one alone by default.
        reports: takes the report of each run.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        shape: DecoderShape,
        *,
        profile: bool = False,
        trace: bool = False,
        check_finite: bool = False,
        heads: HeadGroup | None = None,
        reports: Reports | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.shape = shape
        self.trace = trace
        self.check_finite = check_finite
        self.heads = heads or HeadGroup()
        self.profiler = Profiler(profile)
        self.reports = Reports(trace=trace) if reports is None else reports
        self.runs = 0
        self.owner: object | None = None
        self._plans: OrderedDict[tuple[int, int, str, torch.device], StagePlan] = OrderedDict()
        self._layouts: OrderedDict[str, VisionLayout] = OrderedDict()

    def plan(
        self, number: int, layout: VisionLayout, device: torch.device, turn: int = 0
    ) -> StagePlan:
        """The plan of a stage (of a round of it) for a layout, from the cache if made before.

        Raises:
            ConfigError: windows that do not fit these images, with the stage named.
        """
        key = (number, turn, layout.key, device)
        if key in self._plans:
            self._plans.move_to_end(key)
            return self._plans[key]
        on_cache = self.pipeline.schedule.stages[number].site == "cache"
        stage = self.pipeline.rounds[turn] if on_cache else self.pipeline.stages[number]
        # Made in inference mode, the tables could not serve a later pass that records gradients.
        with torch.inference_mode(False):
            plan = planned(stage, layout, number).to(device)
        self._plans[key] = plan
        if len(self._plans) > PLAN_CACHE:
            self._plans.popitem(last=False)
        return plan

    def begin(self, layout: VisionLayout, drafts: int = 0) -> Prefill:
        """Start a forward pass whose vision tokens lie as `layout` says.

        The last `drafts` positions are guesses; see `Prefill.read_embeddings`.
        """
        prefill = Prefill(self, self._known(layout.with_drafts(drafts)), self.runs)
        self.runs += 1
        return prefill

    def _known(self, layout: VisionLayout) -> VisionLayout:
        """The layout with the same host data that was met before, with all that it derived."""
        if layout.index is not None:
            return layout
        known = self._layouts.setdefault(layout.key, layout)
        self._layouts.move_to_end(layout.key)
        if len(self._layouts) > LAYOUT_CACHE:
            self._layouts.popitem(last=False)
        return known

    def finish(
        self,
        prefill: Prefill,
        cached: bool,
        *,
        keeps_all: bool = False,
        held: Sequence[HeldLayer] | None = None,
    ) -> RunReport:
        """End a forward pass and report it.

        Args:
            prefill: the pass.
            cached: whether it filled a cache.
            keeps_all: the cache stores what lies outside the windows of sliding layers too.
            held: what the cache of each layer holds; without it bytes are counted from the shape.
        """
        shape = replace(self.shape, windows=()) if keeps_all else self.shape
        report = build_report(prefill, shape, held, cached=cached)
        self.profiler.close(report)
        self.reports.add(report)
        return report


@exact()
def _read_attention(component: Scorer | Matcher, attention: AttentionView) -> torch.Tensor | None:
    """What a component reads off the attention call, over the heads of all processes.

    Raises:
        ConfigError: heads are spread over processes, and it looked at this one's only.
    """
    heads = attention.heads
    before = heads.reductions
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
