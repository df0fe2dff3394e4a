"""Whether a loss is below a threshold: one-sided bounds of a paired difference."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightkv.lab.records import Outcome
from lightkv.lab.searching import Verdict
from lightkv.lab.stats import RESAMPLES, resampled_means
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
) -> Margin:
    """The difference with bounds that each err with probability `alpha`.

    Percentile bootstrap over clusters, each bound with one more sample against it: one that is
    wholly lost (for the lower) or won. Without it samples that all agree would have an interval of
    width 0, however few they are; with it a bound on n independent samples that all agree is about
    the exact binomial one (Clopper and Pearson, 1934).

    Args:
        base, other: outcomes of the same samples, in any order.
        alpha: probability of error of each bound.
        accuracy: scores are in 0 to 1, so that 1 can be lost; else the extra sample is as far off
            as the farthest one.
        seed: of the bootstrap.
    """
    found = {outcome.sample: outcome.score for outcome in other}
    change = np.array([found[o.sample] - o.score for o in base], dtype=np.float64)
    clusters = [outcome.cluster for outcome in base]
    own = max(clusters) + "+"  # no other's name
    worst = 1.0 if accuracy else float(np.abs(change).max())
    resamples = min(MOST_RESAMPLES, max(RESAMPLES, math.ceil(IN_TAIL / alpha)))
    bounds = [
        float(
            np.quantile(
                resampled_means(np.append(change, extra), [*clusters, own], resamples, seed), share
            )
        )
        for extra, share in ((-worst, alpha), (worst, 1.0 - alpha))
    ]
    return Margin(len(base), len(set(clusters)), float(change.mean()), bounds[0], bounds[1])


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
