"""Strategies side by side on digit scenes: accuracy, cache, compute and time to first token.

All strategies answer the same batch one after the other before the next batch comes, in an order
that rotates, so that a machine that slows down slows down for all of them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel, ProcessorMixin

from lightkv.checkpoints.equalise import equalised
from lightkv.core.cost.counting import ViewSize, count_savings, prompt_layout
from lightkv.core.errors import ConfigError, UnknownNameError
from lightkv.core.pipeline.pipeline import PipelineSource, PipelineSpec, Recipe, resolve_spec
from lightkv.core.pipeline.solver import check_one_share
from lightkv.core.run.report import RunReport
from lightkv.core.run.session import Session, prepare
from lightkv.demo.asking import Sample, answer, batches
from lightkv.demo.scenes import GRID, KINDS, Kind, Question, Scene, score

VANILLA = "vanilla"
GENTLE: dict[str, Any] = {"name": "lightkv ρ=0.4", "base": "lightkv", "schedule": {"ratio": 0.4}}
"""LightKV with less removed at a stage than the half that was published."""
STRATEGIES: tuple[PipelineSource, ...] = (
    "lightkv",
    GENTLE,
    "lightkv-plus",
    "lightkv-lean",
    "fastv",
    "random",
)
RETENTION = 0.55
BATCH_SIZE = 20
_Z = 1.959964  # two-sided 95 % of the normal distribution

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers.

    Attributes:
        mean: between 0 and 1; for lists the mean share of right items.
        low, high: 95 % Wilson interval (too wide rather than too narrow for lists, whose scores
            vary less than right-or-wrong ones).
        questions: how many.
    """

    mean: float
    low: float
    high: float
    questions: int

    @classmethod
    def of(cls, scores: Sequence[float]) -> Accuracy:
        """From scores in 0 to 1, at least one."""
        low, high = wilson(sum(scores), len(scores))
        return cls(sum(scores) / len(scores), low, high, len(scores))


def wilson(hits: float, count: int) -> tuple[float, float]:
    """95 % interval of a share of `hits` in `count` (Wilson, JASA 22, 1927)."""
    share, spread = hits / count, _Z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass
class Row:
    """What one strategy reached.

    Attributes:
        strategy: its name; `vanilla` for the uncompressed model.
        error: why it could not run; everything below is then empty.
        schedule: the stages that ran, as plain data.
        accuracy: by kind of question.
        retention: achieved mean share of vision tokens in the cache.
        vision_kv_bytes, prefill_flops: means over the questions, compression included.
        ttft: median over batches of the seconds from the vision tower to the end of the prefill.
        ttft_ratio: median over batches of that time over vanilla's for the same batch.
        batches: how many were timed.
    """

    strategy: str
    error: str | None = None
    schedule: list[dict[str, Any]] = field(default_factory=list)
    accuracy: dict[str, Accuracy] = field(default_factory=dict)
    retention: float = math.nan
    vision_kv_bytes: float = math.nan
    prefill_flops: float = math.nan
    ttft: float = math.nan
    ttft_ratio: float = math.nan
    batches: int = 0

    @property
    def mean_accuracy(self) -> float:
        """Mean over the kinds of question."""
        means = [accuracy.mean for accuracy in self.accuracy.values()]
        return sum(means) / len(means) if means else math.nan

    def to_dict(self, vanilla: Row) -> dict[str, Any]:
        """Plain data, with each figure's relation to vanilla."""
        if self.error is not None:
            return {"strategy": self.strategy, "error": self.error}
        return {
            "strategy": self.strategy,
            "schedule": self.schedule,
            "accuracy": {
                kind: {
                    **vars(accuracy),
                    "minus_vanilla": accuracy.mean - vanilla.accuracy[kind].mean,
                }
                for kind, accuracy in self.accuracy.items()
            },
            "mean_accuracy": self.mean_accuracy,
            "mean_accuracy_minus_vanilla": self.mean_accuracy - vanilla.mean_accuracy,
            "retention": self.retention,
            "vision_kv_bytes": self.vision_kv_bytes,
            "vision_kv_ratio": self.vision_kv_bytes / vanilla.vision_kv_bytes,
            "prefill_flops": self.prefill_flops,
            "prefill_flops_ratio": self.prefill_flops / vanilla.prefill_flops,
            "ttft_seconds": self.ttft,
            "ttft_ratio": self.ttft_ratio,
            "timed_batches": self.batches,
        }


def compare(
    strategies: Sequence[PipelineSource],
    retention: float,
    samples: Sequence[Sample],
    model: PreTrainedModel,
    processor: ProcessorMixin,
    kinds: Sequence[Kind] = KINDS,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> list[Row]:
    """Vanilla and every strategy at one retention on the same questions.

    Args:
        strategies: names of presets, pipeline files or specs.
        retention: wanted mean share of vision KV over all layers, in (0, 1]. Schedules are set so
            that what is achieved comes as near to it as a strategy's rounding allows.
        samples: scenes with questions, as of `held_out_scenes`.
        model, processor: as of `lightkv.demo.model.load`.
        kinds: of questions to ask.
        batch_size: questions answered at once; the time to first token is that of a batch.
        progress: called with answered batches and their number, all strategies counted.

    Returns:
        One row for vanilla, then one for each strategy in the given order. A strategy that cannot
        reach the retention on this model has the reason in its row.

    Raises:
        ConfigError: a retention outside (0, 1], an unknown strategy, no questions.
    """
    check_one_share(retention, "retention")
    work = [batch for kind in kinds for batch in batches(samples, kind, batch_size)]
    if not work:
        raise ConfigError("there are no questions to ask", field="samples", value=len(samples))
    runners = [_vanilla(model)] + [_runner(model, s, retention) for s in strategies]
    active = [runner for runner in runners if runner.session is not None]
    total = len(active) * (len(work) + 1)
    done = 0
    # The first batch runs once more than it counts: the first call of everything is slow.
    for number, (scenes, questions) in enumerate([work[0], *work]):
        turn = number % len(active)
        for runner in active[turn:] + active[:turn]:
            runner.ask(model, processor, scenes, questions, counts=number > 0)
            done += 1
            if progress is not None:
                progress(done, total)
    return [runner.finish(active[0]) for runner in runners]


@dataclass
class _Runner:
    """One strategy on its way through the batches."""

    row: Row
    session: Session | None
    scores: dict[str, list[float]] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    reports: list[RunReport] = field(default_factory=list)

    def ask(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        scenes: Sequence[Scene],
        questions: Sequence[Question],
        counts: bool,
    ) -> None:
        """Answer one batch; `counts` is off for the one that only warms up."""
        assert self.session is not None
        self.session.attach()
        try:
            texts = answer(model, processor, scenes, questions)
        finally:
            self.session.detach()
        if not counts:
            return
        for question, text in zip(questions, texts, strict=True):
            self.scores.setdefault(question.kind, []).append(score(question, text))
        report = self.session.last
        self.reports.append(report)
        self.times.append(report.time_to_first_token or math.nan)

    def finish(self, vanilla: _Runner) -> Row:
        """The row, filled."""
        row, rows = self.row, [sample for report in self.reports for sample in report.samples]
        if not rows:
            return row
        row.accuracy = {kind: Accuracy.of(scores) for kind, scores in self.scores.items()}
        row.retention = sum(sample.retention for sample in rows) / len(rows)
        row.vision_kv_bytes = sum(sample.vision_kv_bytes for sample in rows) / len(rows)
        row.prefill_flops = sum(report.flops for report in self.reports) / len(rows)
        row.ttft = statistics.median(self.times)
        pairs = zip(self.times, vanilla.times, strict=True)
        row.ttft_ratio = statistics.median(mine / other for mine, other in pairs)
        row.batches = len(self.times)
        return row


def _vanilla(model: PreTrainedModel) -> _Runner:
    """No stage at all, so the model computes what it always does, under the same stop-watch."""
    session = prepare(model, STRATEGIES[0], schedule=(), profile=True, gap_warning=False)
    return _Runner(Row(VANILLA), session)


def _runner(model: PreTrainedModel, source: PipelineSource, retention: float) -> _Runner:
    spec = resolve_spec(source)
    try:
        session = _session(model, spec, retention)
    except UnknownNameError:
        raise
    except ConfigError as error:
        return _Runner(Row(spec.name, error=str(error)), None)
    row = Row(spec.name, schedule=session.pipeline.schedule.to_list())
    return _Runner(row, session)


def _session(model: PreTrainedModel, spec: PipelineSpec, retention: float) -> Session:
    """A session that comes as near to the retention as it can; explicit stages run as they are."""
    if not isinstance(spec.schedule, Recipe):
        return prepare(model, spec, profile=True, gap_warning=False)

    def solved(target: float) -> Session:
        return prepare(model, spec, retention=target, profile=True, gap_warning=False)

    return equalised(retention, solved, _achieved)


def _achieved(session: Session) -> float:
    """Retention on one picture, counted without running."""
    layout = prompt_layout([ViewSize((1, GRID, GRID))], text_tokens=1)
    shape = session.adapter.shape(session.model.config)
    return count_savings(session.pipeline, shape, layout, new_tokens=1).retention
