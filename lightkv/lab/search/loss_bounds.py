"""Whether a loss is below a threshold: one-sided bounds of a paired difference."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from lightkv.lab.outcomes import Outcome
from lightkv.lab.search.smallest import Verdict
from lightkv.lab.stats import CHANGE, RESAMPLES, estimates, score_pairs
from lightkv.lab.tasks import Sample

SHARES = (0.25, 0.5, 1.0)
"""Of the pictures, in the growing sets of samples."""
FEWEST = 8
"""Pictures in the smallest set; fewer say nothing."""
IN_TAIL = 100
"""Resamples beyond a bound, at least."""
MOST_RESAMPLES = 200_000


@dataclass(frozen=True)
class Margin:
    """A difference to the uncompressed model on some samples, with its one-sided bounds.

    Attributes:
        samples, clusters: that it is of.
        difference: mean of compressed minus uncompressed.
        low: the true difference is above it with the confidence of one decision.
        high: it is below it with the same confidence.
    """

    samples: int
    clusters: int
    difference: float
    low: float
    high: float

    def verdict(self, max_drop: float) -> Verdict:
        """Whether the loss is shown to be below, or above, `max_drop`."""
        if self.low > -max_drop:
            return "accepted"
        return "rejected" if self.high < -max_drop else "undecided"


def margin(
    base: Sequence[Outcome],
    other: Sequence[Outcome],
    alpha: float,
    *,
    accuracy: bool = True,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Margin:
    """The difference with bounds that err with probability `alpha`: `lightkv.lab.stats.estimates`.

    Args:
        base, other: outcomes of the same samples, in any order.
        alpha: probability of error of each bound.
        accuracy: scores are in 0 to 1, so that 1 can be lost.
        seed: of the bootstrap.
        resamples: at least; more where `alpha` is small.

    Raises:
        ConfigError: scipy is not installed.
    """
    scores = score_pairs(base, other)
    clusters = [outcome.cluster for outcome in base]
    number = min(MOST_RESAMPLES, max(resamples, math.ceil(IN_TAIL / alpha)))
    [found] = estimates(
        scores, CHANGE, clusters, alpha, shares=accuracy, resamples=number, seed=seed
    )
    return Margin(len(base), len(set(clusters)), found.value, found.low, found.high)


def surest(samples: Sequence[Sample], alpha: float, *, seed: int = 0) -> Margin:
    """What samples show of an accuracy that loses nothing on any of them: no bound can be closer."""
    same = [Outcome(s.id, s.cluster, s.kind, s.question, "", 1.0) for s in samples]
    return margin(same, same, alpha, seed=seed)


def growing(samples: Sequence[Sample], seed: int, most: int | None = None) -> list[list[Sample]]:
    """What each rung adds: whole pictures in a random order, about `SHARES` of them in all.

    Args:
        samples: of a task.
        seed: of the order, so that the first rung is no special part of the data.
        most: samples to use at most; at least one picture is used.
    """
    by_cluster: dict[str, list[Sample]] = {}
    for sample in samples:
        by_cluster.setdefault(sample.cluster, []).append(sample)
    order = list(by_cluster)
    random.Random(seed).shuffle(order)
    if most is not None:
        total, kept = 0, 0
        for cluster in order:
            total += len(by_cluster[cluster])
            if total > most and kept:
                break
            kept += 1
        order = order[:kept]
    number = len(order)
    ends = sorted({min(number, max(FEWEST, math.ceil(number * share))) for share in SHARES})
    starts = [0, *ends[:-1]]
    return [
        [sample for cluster in order[start:end] for sample in by_cluster[cluster]]
        for start, end in zip(starts, ends, strict=True)
    ]
