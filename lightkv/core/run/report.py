"""What a prefill did: tokens, retention, bytes, FLOPs and, with profiling, times."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightkv.core.assignment import Assignment
from lightkv.core.cost.flops import DecoderShape, cache_flops, equal_layers, read_layer
from lightkv.core.cost.layers import LayerShape
from lightkv.core.errors import SessionError
from lightkv.core.layout import VisionLayout
from lightkv.core.modality import Share, in_order, share_text
from lightkv.core.pipeline.placed import PlacedStage
from lightkv.core.run.record import PassRecord, StageRecord
from lightkv.core.stage.cache_entries import CachedLayer


@dataclass(frozen=True)
class SampleReport:
    """One row of the batch.

    Attributes:
        text_tokens: non-vision tokens, padding left out.
        vision_tokens: vision tokens that each layer caches: those that it sees, less what a stage on
            the cache takes away.
        seen_tokens: vision tokens that each layer sees; None where that is the same.
        stateful: layers without entries, which a stage on the cache cannot reach; the retention that it
            achieves is counted without them.
        by_modality: `vision_tokens` of each modality that the row has.
        originals: `original` of each of them.
        kv_bytes: bytes of all its real cache entries in each layer, made in this prefill.
        vision_kv_bytes: bytes of the vision tokens' keys and values over all layers.
        flops, flops_vanilla: of its prefill, with and without compression.
        compression_flops: of guidance, matching and merging.
        original: vision tokens before any stage, also one before the first layer.
    """

    text_tokens: int
    vision_tokens: tuple[int, ...]
    kv_bytes: tuple[int, ...]
    vision_kv_bytes: int
    flops: int
    flops_vanilla: int
    compression_flops: int
    original: int
    seen_tokens: tuple[int, ...] | None = None
    stateful: tuple[int, ...] = ()
    by_modality: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    originals: Mapping[str, int] = field(default_factory=dict)

    @property
    def retention(self) -> float:
        """Achieved mean over the layers of the share of vision tokens kept (1 without images)."""
        return self._share(self.vision_tokens, self.original)

    @property
    def retentions(self) -> dict[str, float]:
        """The same of each modality that the row has."""
        return {
            name: self._share(tokens, self.originals[name])
            for name, tokens in self.by_modality.items()
            if self.originals[name]
        }

    def _share(self, tokens: Sequence[int], original: int) -> float:
        counted = [n for layer, n in enumerate(tokens) if layer not in self.stateful]
        return sum(counted) / (len(counted) * original) if original else 1.0


@dataclass(frozen=True)
class HeldLayer:
    """What the cache of one layer really holds after a prefill.

    Attributes:
        bytes: of all tensors that hold its entries.
        entries: over all rows, padding included; earlier ones too.
    """

    bytes: int
    entries: int

    def share(self, entries: int) -> int:
        """Bytes of some of its entries."""
        return entries * self.bytes // self.entries if self.entries else 0


@dataclass
class RunReport:
    """One prefill of a session and the decoding that followed it.

    Attributes:
        run: number of the prefill in the session.
        strategy: name of the pipeline.
        planned_retention: of the schedule, before rounding to whole tokens. Where modalities have their
            own, that of the prompt's tokens together; `planned_retentions` has each of them.
        asked_retention: that the schedule was solved for, or modality → its own; None if its stages
            were given.
        counts_text: whether planned and asked retention are shares of all cache entries, since text
            takes part; `retention` is always that of vision tokens.
        samples: one entry for each row of the batch.
        cache_bytes: bytes of the tensors of each layer's cache after the prefill, rows padded to equal
            length, entries of earlier turns included; None without a cache.
        time_to_first_token: seconds from the first module that ran to the end of the prefill.
        role_times: seconds by role (`scoring`, `matching`, `aggregation`).
        decode_steps, decode_time: forward passes after the prefill, and seconds in them.
        trace: assignments of the stages between layers, if the session keeps them.
        scores: importances `[V]` that each of these stages was given, None where it has no scorer.
        after_layers: how many layers ran before each of these stages.
        layout: of the prompt before any stage, kept with `trace`.
        cache_trace: per layer what a stage on the cache did, if the session keeps it.
        flops_estimate: why FLOPs are only an estimate for this decoder; empty if they are counted.
    """

    run: int
    strategy: str
    planned_retention: float
    samples: tuple[SampleReport, ...]
    cache_bytes: tuple[int, ...] | None
    time_to_first_token: float | None = None
    role_times: dict[str, float] = field(default_factory=dict)
    decode_steps: int = 0
    decode_time: float = 0.0
    trace: tuple[Assignment, ...] | None = None
    scores: tuple[torch.Tensor | None, ...] | None = None
    after_layers: tuple[int, ...] | None = None
    layout: VisionLayout | None = None
    cache_trace: tuple[CachedLayer | None, ...] | None = None
    asked_retention: Share | None = None
    counts_text: bool = False
    flops_estimate: str = ""
    planned_retentions: dict[str, float] = field(default_factory=dict)

    @property
    def retention(self) -> float:
        """Achieved retention, mean over the rows that hold images (1 if none does)."""
        rows = [sample.retention for sample in self.samples if sample.original]
        return sum(rows) / len(rows) if rows else 1.0

    @property
    def gap(self) -> str | None:
        """What is to be said of a retention that is more than 5 points from the one asked for."""
        return self._gap(MOST_GAP)

    @property
    def shift(self) -> str | None:
        """The same of one that is more than 1 point away; None where `gap` says it."""
        return self._gap(LEAST_SHIFT) if self.gap is None else None

    def _gap(self, least: float) -> str | None:
        """What is to be said of a retention that is more than `least` from the one asked for.

        None where that one is a share of all cache entries: how many of them are vision tokens is
        then for the method to decide.
        """
        if self.counts_text or not any(sample.original for sample in self.samples):
            return None
        planned = self.planned_retentions or self.planned_retention
        return gap_of(self.retention, self.retentions, planned, self.asked_retention, least)

    @property
    def retentions(self) -> dict[str, float]:
        """Achieved retention of each modality, mean over the rows that have it."""
        each = [sample.retentions for sample in self.samples]
        found = {}
        for name in in_order(name for row in each for name in row):
            rows = [row[name] for row in each if name in row]
            found[name] = sum(rows) / len(rows)
        return found

    @property
    def vision_kv_bytes(self) -> int:
        """Bytes of all vision keys and values in the cache."""
        return sum(sample.vision_kv_bytes for sample in self.samples)

    @property
    def flops(self) -> int:
        """FLOPs of the compressed prefill, compression included."""
        return sum(s.flops + s.compression_flops for s in self.samples)

    @property
    def flops_vanilla(self) -> int:
        return sum(s.flops_vanilla for s in self.samples)

    @property
    def time_per_token(self) -> float | None:
        """Seconds for each decode step, None if nothing was timed."""
        return self.decode_time / self.decode_steps if self.decode_time else None

    def provenance(self) -> Assignment:
        """Which original vision tokens each final survivor holds, over all stages.

        Raises:
            SessionError: the session was not told to keep it.
        """
        if self.trace is None:
            raise SessionError(
                "this session kept no assignments",
                field="trace",
                remedy="use lightkv.compress(model, …, trace=True)",
            )
        counts = tuple(sample.original for sample in self.samples)
        device = self.trace[0].slot.device if self.trace else "cpu"
        return reduce(Assignment.then, self.trace, Assignment.identity(counts, device))

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "run": self.run,
            "strategy": self.strategy,
            "asked_retention": self.asked_retention,
            "planned_retention": self.planned_retention,
            "retention": self.retention,
            "retentions": self.retentions,
            "vision_kv_bytes": self.vision_kv_bytes,
            "cache_bytes": None if self.cache_bytes is None else list(self.cache_bytes),
            "flops": self.flops,
            "flops_vanilla": self.flops_vanilla,
            "flops_estimate": self.flops_estimate,
            "compression_flops": sum(s.compression_flops for s in self.samples),
            "time_to_first_token": self.time_to_first_token,
            "role_times": self.role_times,
            "decode_steps": self.decode_steps,
            "decode_time": self.decode_time,
            "time_per_token": self.time_per_token,
            "samples": [_sample_dict(sample) for sample in self.samples],
        }

    def to_json(self, indent: int | None = 2) -> str:
        return json.dumps(self.to_dict(), indent=indent)

    def table(self) -> Table:
        """A rich table with one row for each run of layers of equal length."""
        title = f"{self.strategy}, run {self.run}: {_headline(self)}"
        # A text, so that a name such as [red] is printed and not obeyed.
        table = Table(title=Text(title, style="table.title"))
        for column in ("sample", "layers", "vision in", "vision out", "KV bytes per layer"):
            table.add_column(column, justify="right")
        for number, sample in enumerate(self.samples):
            by_layer = zip(sample.vision_tokens, sample.kv_bytes, strict=True)
            for first, last, (tokens, size) in equal_layers(by_layer):
                table.add_row(
                    str(number),
                    f"{first}–{last}" if last > first else str(first),
                    str(sample.original),
                    str(tokens),
                    f"{size:,}",
                )
        return table

    def __rich__(self) -> Table:
        return self.table()

    def __str__(self) -> str:
        console = Console(width=120, file=io.StringIO())
        with console.capture() as capture:
            console.print(self.table())
        return capture.get()


def _sample_dict(sample: SampleReport) -> dict[str, Any]:
    return {
        "text_tokens": sample.text_tokens,
        "vision_tokens": list(sample.vision_tokens),
        "kv_bytes": list(sample.kv_bytes),
        "retention": sample.retention,
        "retentions": sample.retentions,
        "vision_kv_bytes": sample.vision_kv_bytes,
        "flops": sample.flops,
        "flops_vanilla": sample.flops_vanilla,
        "compression_flops": sample.compression_flops,
    }


# -- from the record of a pass --------------------------------------------------------------------


def build_report(
    record: PassRecord,
    shape: DecoderShape,
    held: Sequence[HeldLayer] | None,
    *,
    cached: bool,
    traced: bool = False,
) -> RunReport:
    """The report of a finished pass.

    Args:
        record: what it did.
        shape: sizes of the decoder; bytes are counted from it where no cache says what it holds.
        held: what the cache of each layer holds, None if nobody looked.
        cached: whether there is a cache.
        traced: keep assignments, scores and layouts.
    """
    pipeline, layouts = record.pipeline, record.layouts()
    stored = list(layouts)
    for layer, done in record.cached.items():
        stored[layer] = done.layout
    if held is None:
        cache = tuple(
            layout.batch_size * shape.layer_bytes(layer, layout.length)
            for layer, layout in enumerate(stored)
        )
        held = [HeldLayer(shape.token_bytes(layer), 1) for layer in range(shape.num_layers)]
    else:
        cache = tuple(layer.bytes for layer in held)
    if pipeline.on_cache is None:
        samples = _samples(record, shape, layouts, held)
    else:
        samples = _cached_samples(record, pipeline.on_cache, shape, layouts, held)
    report = RunReport(
        run=record.run,
        strategy=pipeline.spec.name,
        planned_retention=pipeline.planned_for(record.layout),
        planned_retentions=pipeline.retentions,
        asked_retention=pipeline.asked,
        counts_text=pipeline.counts_text,
        samples=samples,
        cache_bytes=cache if cached else None,
        flops_estimate=shape.estimate,
    )
    if traced:
        report.trace = tuple(stage.assignment for stage in record.stages)
        report.scores = tuple(stage.score for stage in record.stages)
        report.after_layers = tuple(stage.after_layer for stage in record.stages)
        report.layout = record.layout
        report.cache_trace = tuple(map(record.cached.get, range(shape.num_layers)))
    return report


def _samples(
    record: PassRecord,
    shape: DecoderShape,
    layouts: Sequence[VisionLayout],
    held: Sequence[HeldLayer],
) -> tuple[SampleReport, ...]:
    """Reports of all rows, of stages between layers."""
    vision = _held_vision(shape, layouts, held)
    return tuple(
        replace(_seen_sample(record, shape, layouts, held, row), vision_kv_bytes=count)
        for row, count in enumerate(vision)
    )


def _held_vision(
    shape: DecoderShape, layouts: Sequence[VisionLayout], held: Sequence[HeldLayer]
) -> list[int]:
    """Bytes of the vision tokens of each row that the caches of all layers hold."""
    totals = [0] * layouts[0].batch_size
    masks: dict[int, torch.Tensor] = {}
    for layer, layout in enumerate(layouts):
        counts = layout.vision_counts
        if (kept := shape.held(layer, layout.length)) < layout.length:
            if id(layout) not in masks:
                masks[id(layout)] = layout.vision_mask()
            counts = tuple(masks[id(layout)][:, -kept:].sum(dim=1).tolist())
        share = held[layer].share
        totals = [total + share(count) for total, count in zip(totals, counts, strict=True)]
    return totals


def _seen_sample(
    record: PassRecord,
    shape: DecoderShape,
    layouts: Sequence[VisionLayout],
    held: Sequence[HeldLayer],
    row: int,
) -> SampleReport:
    """The report of a row by what each layer sees; bytes of vision tokens are left open."""
    vision = tuple(layout.vision_counts[row] for layout in layouts)
    text, original = layouts[0].text_counts[row], record.layout.vision_counts[row]
    lengths = [text + count for count in vision]
    originals = record.layout.counts_by_modality[row]
    return SampleReport(
        by_modality=_by_modality(originals, [each.counts_by_modality[row] for each in layouts]),
        originals=originals,
        text_tokens=text,
        vision_tokens=vision,
        kv_bytes=tuple(held[layer].share(shape.held(layer, n)) for layer, n in enumerate(lengths)),
        vision_kv_bytes=0,
        flops=shape.prefill_flops(lengths, text + original),
        flops_vanilla=shape.prefill_flops([text + original] * shape.num_layers),
        compression_flops=sum(_stage_flops(stage, shape, row) for stage in record.stages),
        original=original,
    )


def _by_modality(
    originals: Mapping[str, int], counts: Sequence[Mapping[str, int]]
) -> dict[str, tuple[int, ...]]:
    """Modality → its tokens in each layer, from `counts` of each layer."""
    return {name: tuple(layer[name] for layer in counts) for name in originals}


def _stage_flops(done: StageRecord, shape: DecoderShape, row: int) -> int:
    before = done.before
    if done.after.vision_counts[row] == before.vision_counts[row]:
        return 0  # alone in its batch, the row would not have been worked on
    stage = done.placed.stage
    read = read_layer(stage, done.after_layer)
    sizes = shape.stage_sizes(done.plan, before.length - before.pads[row], row, layer=read)
    return stage.flops(sizes).total


def _cached_samples(
    record: PassRecord,
    placed: PlacedStage,
    shape: DecoderShape,
    layouts: Sequence[VisionLayout],
    held: Sequence[HeldLayer],
) -> tuple[SampleReport, ...]:
    """Reports of the rows where a stage on the cache acted (no layer slides then)."""
    found, stored = [], list(layouts)
    counts = [list(each.counts_by_modality) for each in layouts]
    stateful = tuple(layer for layer, each in enumerate(held) if not each.entries)
    for layer, done in record.cached.items():
        stored[layer], counts[layer] = done.layout, done.counts_by_modality()
    costs = _cache_costs(record, placed, shape)
    for row in range(record.layout.batch_size):
        seen = _seen_sample(record, shape, layouts, held, row)
        entries = [layout.length - layout.pads[row] for layout in stored]
        vision = tuple(sum(each[row].values()) for each in counts)
        found.append(
            replace(
                seen,
                vision_tokens=vision,
                by_modality=_by_modality(seen.originals, [each[row] for each in counts]),
                seen_tokens=seen.vision_tokens,
                stateful=stateful,
                kv_bytes=tuple(held[layer].share(n) for layer, n in enumerate(entries)),
                vision_kv_bytes=sum(held[layer].share(n) for layer, n in enumerate(vision)),
                compression_flops=seen.compression_flops + costs[row],
            )
        )
    return tuple(found)


def _cache_costs(record: PassRecord, placed: PlacedStage, shape: DecoderShape) -> list[int]:
    """FLOPs of the stage on the caches of all layers, for each row."""
    total, known = [0] * record.layout.batch_size, dict[tuple[str, LayerShape], list[int]]()
    for layer, done in record.cached.items():
        before, rounds = done.before, zip(placed.rounds, record.cache_plans[layer], strict=True)
        key = before.key, shape.layer(layer)
        if key not in known:
            steps = list(rounds)
            known[key] = [
                cache_flops(steps, shape, before.length - pad, row, layer).total
                for row, pad in enumerate(before.pads)
            ]
        total = [a + b for a, b in zip(total, known[key], strict=True)]
    return total


# -- in words ----------------------------------------------------------------------------------


def _headline(report: RunReport) -> str:
    asked = report.asked_retention
    said = "" if asked is None else f"asked {_asked(asked)}, "
    parts = [f"retention {report.retention:.3f} ({said}planned {report.planned_retention:.3f})"]
    if len(report.retentions) > 1 or report.planned_retentions:
        parts += [f"{name} {share:.3f}" for name, share in report.retentions.items()]
    if report.flops_vanilla:
        told = f" (an estimate: {report.flops_estimate})" if report.flops_estimate else ""
        parts.append(f"prefill FLOPs {report.flops / report.flops_vanilla:.3f} of vanilla{told}")
    if report.time_to_first_token is not None:
        parts.append(f"first token {1e3 * report.time_to_first_token:.1f} ms")
    if report.time_per_token is not None:
        parts.append(f"{1e3 * report.time_per_token:.1f} ms per token")
    parts += [f"{role} {1e3 * t:.1f} ms" for role, t in report.role_times.items()]
    return ", ".join(parts)


def _asked(share: Share) -> str:
    return share_text(share) if isinstance(share, dict) else f"{share:.3f}"


def gap_of(
    achieved: float,
    by_modality: Mapping[str, float],
    planned: Share,
    asked: Share | None,
    least: float | None = None,
) -> str | None:
    """`gap_text` of all tokens, or of the first modality that has something to say, with its name.

    Args:
        achieved, by_modality: mean over the layers of all tokens, and of those of each modality.
        planned: of the schedule, modality → its own where there are such.
        asked: of a recipe, likewise; None for explicit stages.
        least: as of `gap_text`.
    """
    least = MOST_GAP if least is None else least
    if not isinstance(planned, dict):
        assert not isinstance(asked, dict)
        return gap_text(achieved, planned, asked, least)
    for name, share in planned.items():
        wanted = asked[name] if isinstance(asked, dict) else None
        gap = gap_text(by_modality.get(name, share), share, wanted, least)
        if gap is not None:
            return f"{name}: {gap}"
    return None


LEAST_SHIFT = 0.01
"""Share of the vision KV cache from which on a difference is explained beside the figure."""
MOST_GAP = 0.05
"""Share of the vision KV cache by which a run may differ from what was asked without a warning."""


def gap_text(
    achieved: float, planned: float, asked: float | None, least: float = MOST_GAP
) -> str | None:
    """What a gap between asked and achieved retention is and why; None if it is small.

    Args:
        achieved: mean over the layers, of whole tokens.
        planned: of the schedule, before rounding.
        asked: of a recipe; None for explicit stages, which plan what they are asked for.
        least: a gap that is not larger is small.
    """
    wanted = planned if asked is None else asked
    if abs(achieved - wanted) <= least:
        return None
    source = "planned" if asked is None else "asked for"
    if achieved > wanted:
        why = (
            "of few tokens (small pictures) only whole ones are removed, budgets that "
            "follow from values may leave more than the share, and newlines and the end of the prompt "
            "are never removed"
        )
        remedy = (
            "larger pictures, fewer windows where the schedule has several, or a lower retention"
        )
    else:
        why = (
            "of few tokens the number that is kept is rounded down to whole tokens, and budgets that "
            "follow from values may leave less than the share"
        )
        remedy = "larger pictures or a higher retention"
    return f"retention {achieved:.3f} where {wanted:.3f} was {source}: {why}. What helps: {remedy}"
