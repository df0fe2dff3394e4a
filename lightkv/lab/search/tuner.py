"""The search behind `tune`: strategies, retentions, schedules and samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lightkv.core.errors import ConfigError
from lightkv.core.pipeline.pipeline import PipelineSpec
from lightkv.lab.errors import NotShownError
from lightkv.lab.grids.worker import versions
from lightkv.lab.search.candidates import Candidate
from lightkv.lab.search.evaluator import Evaluator
from lightkv.lab.search.loss_bounds import margin, surest
from lightkv.lab.search.result import Trial, Tuned
from lightkv.lab.search.smallest import Found, Race, Standing, Verdict, most_points, search
from lightkv.lab.stats import FEWEST_UNBOUNDED, paired
from lightkv.lab.tasks import Sample, Task

STEERING = 0.1
"""Probability of error of a bound on part of the samples. These only steer the search: what they say
wrongly costs evaluations, since the answer and the retention below it are judged on all samples."""


PLENTY = 50
"""Pictures of which it is known how a bound falls with their number."""
SUFFIX = "-tuned"
"""Behind the name of a strategy whose stages were found."""


@dataclass(frozen=True)
class Answer:
    """What passes, and at which retention."""

    candidate: Candidate
    retention: float


def error_of_one(confidence: float, points: int, tried: Sequence[list[Candidate]]) -> float:
    """Probability of error of one decision. Bonferroni over everything that could be accepted wrongly:
    which retentions are tried is decided by the same data."""
    return (1.0 - confidence) / (points * sum(map(len, tried)))


def check_samples(
    samples: Sequence[Sample], alpha: float, max_drop: float, *, accuracy: bool, seed: int
) -> None:
    """Where not even a compression that loses nothing can pass, asking the model is for nothing.

    Raises:
        NotShownError: with how many pictures it takes.
    """
    pictures = len({sample.cluster for sample in samples})
    few = "allow a larger drop, or give more samples: about {} pictures or more; fewer retentions"
    few += " (--range, --step) and schedules (--schedule own) help a little"
    if not accuracy and pictures < FEWEST_UNBOUNDED:
        raise NotShownError(
            f"log-probabilities have no limit, so {pictures} pictures show nothing of what they lose",
            field="data",
            value=pictures,
            remedy=f"give {FEWEST_UNBOUNDED} pictures or more",
        )
    if not accuracy:
        return
    seen = surest(samples, alpha, seed=seed)
    if seen.verdict(max_drop) == "accepted":
        return
    many = surest([replace(samples[0], id=f"{k}", cluster=f"{k}") for k in range(PLENTY)], alpha)
    # The bound falls with the pictures and the extra one; of very few it is all that can be lost.
    open_ = max(-each.low * (each.clusters + 1) for each in (seen, many))
    need = math.ceil(open_ / max_drop) - 1
    raise NotShownError(
        f"on {seen.samples} samples of {seen.clusters} pictures not even a loss of 0 is shown to be "
        f"below the threshold: it could be {-seen.low:.4f}",
        field="max_drop",
        value=max_drop,
        remedy=few.format(need),
    )


@dataclass(eq=False)
class Tuner:
    """Searches one strategy after the other."""

    evaluator: Evaluator
    max_drop: float
    confidence: float
    points: Sequence[float]
    step: float
    budget: int | None
    tried: Sequence[list[Candidate]]

    def __post_init__(self) -> None:
        points = len(self.points)
        self.budget = min(points, self.budget or most_points(points))
        self.number = sum(map(len, self.tried))
        self.alpha = error_of_one(self.confidence, points, self.tried)
        self.trials: dict[tuple[str, float], Trial] = {}
        self.reasons: dict[tuple[str, float], str | None] = {}
        self.remarks: list[str] = []
        self.exhausted = False

    def check(self, asked: bool) -> None:
        """Refuse before any evaluation what cannot come to anything.

        Args:
            asked: the user named the schedules.

        Raises:
            ConfigError: a strategy, or a schedule asked for, that reaches no retention of the range.
        """
        for each in (each for some in self.tried for each in some):
            for point in self.points:
                self.reasons[each.name, point] = self.evaluator.reachable(each.spec, point)
        for some in self.tried:
            self._check_reach(some, "strategy", some[0].strategy)
            for each in some[1:] if asked else ():
                self._check_reach([each], "schedule", each.schedule)

    def _check_reach(self, some: Sequence[Candidate], field: str, value: str) -> None:
        if not any(self._here(some, point) for point in self.points):
            reason = self.reasons[some[0].name, self.points[-1]]
            raise ConfigError(
                f"reaches no retention of the range: {reason}",
                field=field,
                value=value,
                remedy="leave it out, or change --range",
            )

    def _here(self, some: Sequence[Candidate], point: float) -> list[Candidate]:
        """Those that reach a retention."""
        return [each for each in some if self.reasons[each.name, point] is None]

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
        here = {p: self._here(some, p) for p in wanted}
        points = [p for p in wanted if here[p]]
        gone = [p for p in wanted if not here[p]]
        if gone:
            self.remarks.append(
                f"{strategy}: {len(gone)} retentions from {gone[0]:g} to {gone[-1]:g} are out of "
                f"reach: {self.reasons[strategy, gone[0]]}"
            )
        if not points:
            return None
        races = {p: Race(here[p]) for p in points}

        def judge(point: int, rung: int) -> Verdict:
            retention = points[point]
            return races[retention].run(rung, lambda each: self._look(each, retention, rung))

        found = search(len(points), len(self.evaluator.rungs), judge, self.budget)
        self.exhausted |= found.exhausted
        self._remark(strategy, points, found)
        if found.answer is None:
            return None
        retention = points[found.answer]
        winner = races[retention].winner
        assert winner is not None
        return Answer(winner, retention)

    def _look(self, candidate: Candidate, retention: float, rung: int) -> Standing:
        evaluator, name = self.evaluator, candidate.name
        base = evaluator.base(rung)
        other = evaluator.outcomes(name, candidate.spec, retention, rung)
        finished = rung == len(evaluator.rungs) - 1
        alpha = self.alpha if finished else max(self.alpha, STEERING)
        seen = margin(base, other, alpha, accuracy=evaluator.task.accuracy, seed=evaluator.seed)
        verdict = seen.verdict(self.max_drop)
        self.trials[name, retention] = Trial(
            strategy=candidate.strategy,
            schedule=candidate.schedule,
            retention=retention,
            achieved=sum(outcome.retention for outcome in other) / len(other),
            margin=seen,
            verdict=verdict,
            finished=finished,
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
            pipeline=_tuned_name(evaluator.pipeline(candidate.name, retention)),
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
            remarks=(*self.remarks, *self._undecided(retention)),
        )

    def _undecided(self, answer: float) -> list[str]:
        """What was not shown below the answer, although all samples were asked."""
        trials = [each for each in self.trials.values() if each.retention < answer]
        open_ = {t.retention for t in trials if t.finished and t.verdict == "undecided"}
        if not open_:
            return []
        those = ", ".join(f"{retention:g}" for retention in sorted(open_))
        return [
            f"not shown, and not refuted: a small enough loss at {those}; more samples would decide"
        ]

    def _not_shown(self) -> NotShownError:
        top = max(self.trials.values(), key=lambda trial: (trial.retention, trial.margin.low))
        seen = top.margin
        shown = (
            "that is more than is allowed"
            if -seen.difference > self.max_drop
            else "that is within what is allowed, but the samples are too few to show it"
        )
        tried = sorted({trial.retention for trial in self.trials.values()})
        which = f"no retention from {self.points[0]:g} to {self.points[-1]:g}"
        if self.exhausted:
            those = ", ".join(f"{retention:g}" for retention in tried)
            which = f"none of the retentions that the budget allowed ({those})"
        return NotShownError(
            f"{which} is shown to lose less with "
            f"{self.confidence:.4g} confidence: {top.name} at {top.retention:g} loses "
            f"{0.0 - seen.difference:.4f} on {seen.samples} samples, {shown}: it may be up to "
            f"{-seen.low:.4f}. Nothing was written",
            field="max_drop",
            value=self.max_drop,
            remedy="allow a larger drop, give more samples, or a range that ends higher"
            + (", or a larger budget" if self.exhausted else ""),
        )


def _tuned_name(spec: PipelineSpec) -> PipelineSpec:
    """The pipeline under a name of its own: its stages are those of these data, not of its paper."""
    name = spec.name if spec.name.endswith(SUFFIX) else spec.name + SUFFIX
    source = f"lightkv tune, made of {spec.name}" + (f" ({spec.source})" if spec.source else "")
    return spec.model_copy(update={"name": name, "source": source})


def _digest(task: Task) -> dict[str, str]:
    found = task.fingerprint()
    return {"digest": found} if found else {}
