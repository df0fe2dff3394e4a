"""Whether a loss is below a threshold: one-sided bounds of a paired difference."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from lightkv.lab.outcomes import Outcome
from lightkv.lab.search.smallest import Verdict
from lightkv.lab.stats import RESAMPLES, Floats, resampled_means
from lightkv.lab.tasks import Sample

SHARES = (0.25, 0.5, 1.0)
"""Of the pictures, in the growing sets of samples."""
FEWEST = 8
"""Pictures in the smallest set; fewer say nothing."""
FEWEST_UNBOUNDED = 20
"""Pictures below which scores without a limit, such as log-probabilities, have no bounds."""
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
    """The difference with bounds that each err with probability `alpha`.

    Bootstrap over clusters, bias-corrected and accelerated (BCa: Efron, JASA 82, 1987): losses are
    rare and so skewed, and a plain percentile bound of 5 % errs in up to 15 % of such data. Each
    bound has one more cluster against it, as large as the largest and wholly lost (for the lower) or
    won: without it samples that all agree would have an interval of width 0, however few they are,
    and with one lost sample in its place many questions about few pictures would count as many proofs.

    Args:
        base, other: outcomes of the same samples, in any order.
        alpha: probability of error of each bound.
        accuracy: scores are in 0 to 1, so that 1 can be lost. Else nobody knows how much can be:
            the extra samples are as far off as the farthest one, and fewer than `FEWEST_UNBOUNDED`
            clusters have no bounds.
        seed: of the bootstrap.
        resamples: at least; more where `alpha` is small.
    """
    found = {outcome.sample: outcome.score for outcome in other}
    change = np.array([found[o.sample] - o.score for o in base], dtype=np.float64)
    clusters = [outcome.cluster for outcome in base]
    sizes = Counter(clusters)
    if not accuracy and len(sizes) < FEWEST_UNBOUNDED:
        return Margin(len(base), len(sizes), float(change.mean()), -math.inf, math.inf)
    worst = 1.0 if accuracy else float(np.abs(change).max())
    number = min(MOST_RESAMPLES, max(resamples, math.ceil(IN_TAIL / alpha)))
    most = max(sizes.values())
    grown = [*clusters, *[max(sizes) + "+"] * most]  # no other's name
    low, high = (
        _bound(np.append(change, [extra] * most), grown, share, number, seed)
        for extra, share in ((-worst, alpha), (worst, 1.0 - alpha))
    )
    return Margin(len(base), len(sizes), float(change.mean()), low, high)


def surest(samples: Sequence[Sample], alpha: float, *, seed: int = 0) -> Margin:
    """What samples show of an accuracy that loses nothing on any of them: no bound can be closer."""
    same = [Outcome(s.id, s.cluster, s.kind, s.question, "", 1.0) for s in samples]
    return margin(same, same, alpha, seed=seed)


def _bound(
    values: Floats, clusters: Sequence[str], share: float, resamples: int, seed: int
) -> float:
    """The BCa bound of the mean of `values` `[n]` with `share` of the distribution below it."""
    means = np.sort(resampled_means(values, clusters, resamples, seed))
    mean = float(values.mean())
    normal = NormalDist()
    # Half of those that tie count as below: means of few values lie on a lattice.
    below = np.searchsorted(means, mean, "left")
    upto = np.searchsorted(means, mean, "right")
    rank = min(max((below + upto) / 2.0, 1.0), resamples - 1.0) / resamples
    bias = normal.inv_cdf(float(rank))
    _, owner = np.unique(np.asarray(clusters), return_inverse=True)
    influence = np.bincount(owner, weights=values - mean)
    spread = float((influence**2).sum())
    skew = float((influence**3).sum()) / (6.0 * spread**1.5) if spread > 0.0 else 0.0
    aim = bias + normal.inv_cdf(share)
    if skew * aim < 1.0:
        share = normal.cdf(bias + aim / (1.0 - skew * aim))
    else:
        share = 0.0 if aim < 0.0 else 1.0
    return float(np.quantile(means, share))


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
