"""The smallest retention that loses less than a user allows, on the user's own data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightkv.core.errors import ConfigError
from lightkv.core.pipeline import PipelineSpec, Recipe, resolve_spec
from lightkv.lab.candidates import Candidate, candidates
from lightkv.lab.errors import NotShownError
from lightkv.lab.evaluating import Evaluator, Report
from lightkv.lab.evidence import Trial, Tuned, check_out, write
from lightkv.lab.forms import spec_data
from lightkv.lab.margins import growing, margin
from lightkv.lab.planning import seeded
from lightkv.lab.racing import Look, Race
from lightkv.lab.searching import Found, Verdict, most_points, search
from lightkv.lab.stats import paired
from lightkv.lab.subject import Subject
from lightkv.lab.tasks import Task
from lightkv.lab.wishes import retentions, share, task_of
from lightkv.lab.work import versions

RANGE = "0.2:0.95"
STEP = 0.05


def tune(
    model: str | Subject = "demo",
    data: Any = "scenes:200",
    *,
    task: str | None = None,
    measure: str | None = None,
    question: str | None = None,
    strategy: str | Sequence[str] = "lightkv",
    schedules: Sequence[Mapping[str, Any] | str] | None = None,
    max_drop: float | str = 0.01,
    confidence: float | str = 0.95,
    range: str | tuple[float, float] = RANGE,
    step: float = STEP,
    budget: int | None = None,
    samples: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    dtype: str = "auto",
    device: str | None = None,
    progress: Report | None = None,
) -> Tuned:
    """Find the smallest retention, and the schedule for it, whose loss is shown to be below `max_drop`.

    Bisection over the retentions of the range, and at each of them successive halving over schedules,
    with samples that grow until they decide. A retention passes if with one of its schedules a
    one-sided bound of the paired difference to the uncompressed model, by bootstrap over pictures, is
    above −`max_drop` on all samples. That more retention loses no more is assumed; one retention
    below the answer's neighbour tests it.

    Args:
        model: `demo`, a checkpoint directory, a hub id, or a subject that is loaded.
        data: `scenes:N`, a folder, a JSONL file, or a task.
        task: `files`, `agreement`, `perplexity`; None: by whether the data have answers.
        measure, question: of files.
        strategy: presets or pipeline files, with commas between them or as a list: the one that
            passes at the smallest retention, of several the one that loses less there.
        schedules: to try besides a strategy's own: changes of its recipe, such as `{"ratio": 0.4}` or
            `"ratio: 0.4"`. None: gentler stages, or other depths (`lightkv.lab.candidates`).
            `["own"]`: no others.
        max_drop: of the mean score: `"1%"` or 0.01. Of the mean log-probability for `perplexity`.
        confidence: that the retention found loses less, whatever path the search takes.
        range, step: retentions to choose from.
        budget: retentions to try at most for each strategy; the bisection's own need if None.
        samples: to use at most, in whole pictures.
        seed: of the order of pictures, the bootstrap, bundled scenes and components that draw.
        out: a pipeline file to write, with the evidence as comments.
        dtype, device: to load a model in.
        progress: called before each evaluation.

    Raises:
        ConfigError: numbers that make no sense, data that cannot be used, a strategy whose schedule
            is explicit.
        NotShownError: no retention of the range passes; nothing is written.
        LightKVError: the model cannot be loaded, or a strategy cannot work on it.
    """
    drop = share(max_drop, "max_drop", 0.0, 1.0, "1% or 0.01")
    sure = share(confidence, "confidence", 0.5, 0.9999, "95% or 0.95")
    points = retentions(range, step)
    for name, number in (("budget", budget), ("samples", samples)):
        if number is not None and number < 1:
            raise ConfigError("must be at least 1", field=name, value=number)
    if seed < 0:
        raise ConfigError("must be at least 0", field="seed", value=seed)
    path = None if out is None else check_out(out)
    specs = _specs(strategy)
    tried = [_candidates(name, spec, schedules, seed) for name, spec in specs.items()]
    chosen = task_of(data, task, measure=measure, question=question, seed=seed)
    rungs = growing(chosen.samples(), seed, samples)
    if not rungs or not rungs[0]:
        raise ConfigError("the data hold no samples", field="data", value=str(data))
    subject = (
        model if isinstance(model, Subject) else Subject.load(model, dtype=dtype, device=device)
    )
    evaluator = Evaluator(subject, chosen, rungs, seed, progress)
    tuned = _Tuner(evaluator, drop, sure, points, step, budget, tried).best()
    if path is not None:
        write(tuned, path)
    return tuned


def _specs(strategy: str | Sequence[str]) -> dict[str, PipelineSpec]:
    """Name → pipeline with a schedule that a retention is solved for."""
    names = strategy.split(",") if isinstance(strategy, str) else list(strategy)
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise ConfigError("there is no strategy", field="strategy", remedy="such as lightkv")
    found = {name: resolve_spec(name) for name in dict.fromkeys(names)}
    for name, spec in found.items():
        if not isinstance(spec.schedule, Recipe):
            raise ConfigError(
                "its schedule has explicit stages, which already fix the retention",
                field="strategy",
                value=name,
                remedy="give its schedule as a recipe (retention, windows, ratio)",
            )
    return found


def _candidates(
    name: str, spec: PipelineSpec, schedules: Sequence[Mapping[str, Any] | str] | None, seed: int
) -> list[Candidate]:
    return candidates(name, PipelineSpec.parse(seeded(spec_data(spec), seed)), schedules)


@dataclass(frozen=True)
class Answer:
    """What passes, and at which retention."""

    candidate: Candidate
    retention: float


class _Tuner:
    """Searches one strategy after the other."""

    def __init__(
        self,
        evaluator: Evaluator,
        max_drop: float,
        confidence: float,
        points: Sequence[float],
        step: float,
        budget: int | None,
        tried: Sequence[list[Candidate]],
    ) -> None:
        self.evaluator = evaluator
        self.max_drop = max_drop
        self.confidence = confidence
        self.points = points
        self.step = step
        self.budget = min(len(points), budget or most_points(len(points)))
        self.tried = tried
        self.number = sum(map(len, tried))
        # Bonferroni over everything that could be accepted wrongly.
        self.alpha = (1.0 - confidence) / (self.budget * self.number)
        self.trials: dict[tuple[str, float], Trial] = {}
        self.remarks: list[str] = []

    def best(self) -> Tuned:
        """The strategy that passes at the smallest retention, with the schedule that does."""
        answer: Answer | None = None
        for some in self.tried:
            # Another strategy is of interest only where it is at least as small.
            top = self.points[-1] if answer is None else answer.retention
            found = self._search(some, [p for p in self.points if p <= top])
            if found is not None and (answer is None or self._better(found, answer)):
                answer = found
        if answer is None:
            raise self._not_shown()
        return self._tuned(answer)

    def _better(self, one: Answer, other: Answer) -> bool:
        gaps = [self.trials[each.candidate.name, each.retention].margin for each in (one, other)]
        return one.retention < other.retention or gaps[0].difference > gaps[1].difference

    def _search(self, some: Sequence[Candidate], wanted: Sequence[float]) -> Answer | None:
        strategy = some[0].strategy
        reasons = {
            (each.name, p): self.evaluator.reachable(each.spec, p) for p in wanted for each in some
        }
        here = {p: [each for each in some if reasons[each.name, p] is None] for p in wanted}
        points = [p for p in wanted if here[p]]
        if not points:
            raise ConfigError(
                f"the strategy reaches no retention of the range: {reasons[strategy, wanted[-1]]}",
                field="strategy",
                value=strategy,
                remedy="leave it out, or change --range",
            )
        if len(points) < len(wanted):
            gone = [p for p in wanted if not here[p]]
            self.remarks.append(
                f"{strategy}: {len(gone)} retentions from {gone[0]:g} to {gone[-1]:g} are out of "
                f"reach: {reasons[strategy, gone[0]]}"
            )
        races = {p: Race(here[p]) for p in points}

        def judge(point: int, rung: int) -> Verdict:
            retention = points[point]
            return races[retention].run(rung, lambda each: self._look(each, retention, rung))

        found = search(len(points), len(self.evaluator.rungs), judge, self.budget)
        self._remark(strategy, points, found)
        if found.answer is None:
            return None
        retention = points[found.answer]
        winner = races[retention].winner
        assert winner is not None
        return Answer(winner, retention)

    def _look(self, candidate: Candidate, retention: float, rung: int) -> Look:
        evaluator, name = self.evaluator, candidate.name
        base = evaluator.base(rung)
        other = evaluator.outcomes(name, candidate.spec, retention, rung)
        seen = margin(
            base, other, self.alpha, accuracy=evaluator.task.accuracy, seed=evaluator.seed
        )
        verdict = seen.verdict(self.max_drop)
        self.trials[name, retention] = Trial(
            strategy=candidate.strategy,
            schedule=candidate.schedule,
            retention=retention,
            achieved=sum(outcome.retention for outcome in other) / len(other),
            margin=seen,
            verdict=verdict,
            finished=rung == len(evaluator.rungs) - 1,
        )
        evaluator.trials = len(self.trials)
        return verdict, seen.difference

    def _remark(self, name: str, points: Sequence[float], found: Found) -> None:
        if found.answer is None:
            return
        here = f"{name} at {points[found.answer]:g}"
        if found.exhausted:
            self.remarks.append(f"{here}: the budget ended the search; a smaller one may pass")
        elif found.answer == 0:
            self.remarks.append(f"{here}: the smallest that could be tried; smaller ones may pass")
        for point in found.odd:
            self.remarks.append(
                f"{name}: {points[point]:g} passes although a retention above it does not; "
                "bisection takes quality to grow with retention, so look at a full sweep"
            )

    def _tuned(self, answer: Answer) -> Tuned:
        evaluator, candidate, retention = self.evaluator, answer.candidate, answer.retention
        trial, last = self.trials[candidate.name, retention], len(evaluator.rungs) - 1
        base = evaluator.base(last)
        other = evaluator.outcomes(candidate.name, candidate.spec, retention, last)
        return Tuned(
            pipeline=evaluator.pipeline(candidate.name, retention),
            strategy=candidate.strategy,
            schedule=candidate.schedule,
            retention=retention,
            achieved=trial.achieved,
            max_drop=self.max_drop,
            confidence=self.confidence,
            decision_confidence=1.0 - self.alpha,
            margin=trial.margin,
            difference=paired(base, other, seed=evaluator.seed),
            trials=tuple(self.trials.values()),
            evaluations=len({(each.strategy, each.retention) for each in self.trials.values()}),
            answered=evaluator.answered,
            sweep=len(self.points) * self.number * evaluator.total,
            range=(self.points[0], self.points[-1]),
            step=self.step,
            model=evaluator.subject.name or type(evaluator.subject.model).__name__,
            task={**evaluator.task.spec(), **_digest(evaluator.task)},
            seed=evaluator.seed,
            versions=versions(),
            accuracy=evaluator.task.accuracy,
            remarks=tuple(self.remarks),
        )

    def _not_shown(self) -> NotShownError:
        top = max(self.trials.values(), key=lambda trial: (trial.retention, trial.margin.low))
        seen = top.margin
        return NotShownError(
            f"no retention from {self.points[0]:g} to {self.points[-1]:g} is shown to lose less with "
            f"{self.confidence:.4g} confidence: {top.name} at {top.retention:g} loses "
            f"{0.0 - seen.difference:.4f} on {seen.samples} samples, at most {-seen.low:.4f}; "
            "nothing was written",
            field="max_drop",
            value=self.max_drop,
            remedy="allow a larger drop, give more samples, or a range that ends higher",
        )


def _digest(task: Task) -> dict[str, str]:
    found = task.fingerprint()
    return {"digest": found} if found else {}
