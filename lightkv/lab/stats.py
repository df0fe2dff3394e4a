"""What a difference between two cells is worth: the one place of all bounds and tests of the lab.

Samples that share a picture are not independent, so the bootstrap draws pictures (clusters), not
samples: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 8. Bounds are
bias-corrected and accelerated (BCa: Efron, JASA 82, 1987), because losses are rare and so skewed: a
plain percentile bound of 5 % errs in up to 15 % of such data. McNemar's test is the exact binomial one
(Psychometrika 12, 1947). Of many comparisons, tests are corrected after Holm (Scandinavian Journal of
Statistics 6, 1979), intervals by the largest deviation of all of them (Westfall and Young,
"Resampling-Based Multiple Testing", 1993).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightkv.core.errors import ConfigError
from lightkv.lab.outcomes import Outcome

RESAMPLES = 10_000
LEVEL = 0.95
TAIL = (1.0 - LEVEL) / 2.0
FEWEST_UNBOUNDED = 20
"""Clusters below which scores without a limit, such as log-probabilities, have no bounds."""
CHANGE = np.array([[-1.0], [1.0]])
"""Weights of two cells: the second minus the first."""
_AT_ONCE = 2**22
"""Drawn clusters held in memory at once."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure with its bounds.

    Attributes:
        value: of the samples.
        low, high: one-sided bounds; together an interval of 95 % unless another was asked for.
        clear: whether it differs from zero, all that were estimated with it taken together.
    """

    value: float
    low: float
    high: float
    clear: bool = False


@dataclass(frozen=True)
class Difference:
    """Another cell minus the baseline, on the same samples, or on independent ones (`unpaired`).

    Attributes:
        n: samples, of the other cell.
        mean_base, mean_other: plain means over them.
        difference: other minus base.
        low, high: 95 % interval of it, see `estimates`.
        wins, losses: samples on which the other scores higher, lower; None where there are no pairs.
        mcnemar_p: two-sided, exact: whether as many samples turn wholly right as stop being so; a
            score counts as wholly right at 1. None where scores leave 0 to 1 (log-probabilities), and
            where there are no pairs.
    """

    n: int
    mean_base: float
    mean_other: float
    difference: float
    low: float
    high: float
    mcnemar_p: float | None
    wins: int | None
    losses: int | None


def scipy_stats() -> Any:
    """`scipy.stats`; to be called before long work whose result needs statistics.

    Raises:
        ConfigError: scipy is not installed.
    """
    try:
        from scipy import stats
    except ModuleNotFoundError as error:
        raise ConfigError(
            "statistics need scipy, which is not installed",
            field="lab",
            remedy="pip install 'lightkv[lab]'",
        ) from error
    return stats


def paired(
    base: Sequence[Outcome],
    other: Sequence[Outcome],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """The difference between two cells that answered the same samples.

    Raises:
        ConfigError: no samples, or other ones in the two cells; scipy is not installed.
    """
    scores = score_pairs(base, other)
    before, after = scores.T
    change = after - before
    clusters = [outcome.cluster for outcome in base]
    [found] = estimates(scores, CHANGE, clusters, resamples=resamples, seed=seed)
    return Difference(
        n=len(base),
        mean_base=float(before.mean()),
        mean_other=float(after.mean()),
        difference=found.value,
        low=found.low,
        high=found.high,
        mcnemar_p=mcnemar_of(before, after),
        wins=int((change > 0).sum()),
        losses=int((change < 0).sum()),
    )


def unpaired(
    base: Sequence[Outcome],
    other: Sequence[Outcome],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """The difference between two means of independent samples, such as scenes of two seeds.

    Its interval is made of those of the two means, by squares of their distances (MOVER: Zou and
    Donner, Statistics in Medicine 27, 2008). There are no pairs, so there are no wins, losses and test.

    Raises:
        ConfigError: no outcomes; scipy is not installed.
    """
    before, now = (mean_interval(each, resamples=resamples, seed=seed) for each in (base, other))
    (first, first_low, first_high), (second, second_low, second_high) = before, now
    return Difference(
        n=len(other),
        mean_base=first,
        mean_other=second,
        difference=second - first,
        low=second - first - math.hypot(second - second_low, first_high - first),
        high=second - first + math.hypot(second_high - second, first - first_low),
        mcnemar_p=None,
        wins=None,
        losses=None,
    )


def score_pairs(base: Sequence[Outcome], other: Sequence[Outcome]) -> Floats:
    """Scores `[n, 2]` of two cells on the same samples, in the order of `base`.

    Raises:
        ConfigError: no samples, or other ones in the two cells.
    """
    found = {outcome.sample: outcome.score for outcome in other}
    if not base or {outcome.sample for outcome in base} != set(found):
        raise ConfigError(
            "paired statistics need the same samples in both cells",
            field="samples",
            value=f"{len(base)} and {len(other)}",
            remedy="compare cells of the same task",
        )
    return np.array([(outcome.score, found[outcome.sample]) for outcome in base], dtype=np.float64)


def mean_interval(
    outcomes: Sequence[Outcome], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float, float]:
    """Mean score and its 95 % interval, see `estimates`.

    Raises:
        ConfigError: no outcomes; scipy is not installed.
    """
    if not outcomes:
        raise ConfigError("there are no outcomes to take a mean of", field="outcomes", value=0)
    scores = np.array([[outcome.score] for outcome in outcomes], dtype=np.float64)
    clusters = [outcome.cluster for outcome in outcomes]
    [found] = estimates(scores, np.ones((1, 1)), clusters, resamples=resamples, seed=seed)
    return found.value, found.low, found.high


def are_shares(scores: Floats) -> bool:
    """Whether scores lie in 0 to 1, so that it is known how much can be lost."""
    return bool(scores.min() >= 0.0 and scores.max() <= 1.0)


def estimates(
    scores: Floats,
    weights: Floats,
    clusters: Sequence[Any] | NDArray[Any],
    tail: float = TAIL,
    *,
    shares: bool | None = None,
    family: float = 1.0 - LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Estimate]:
    """Weighted sums of the mean scores of cells that answered the same samples, with their bounds.

    BCa by bootstrap over clusters. The same draws serve all sums, and all calls with the same clusters
    and seed, so that comparisons are paired. Each bound has one more cluster against it, as large as
    the largest, with the worst score that there is (for the lower) or the best: without it samples
    that all agree would have an interval of width 0, however few they are, and with one sample in its
    place many questions about few pictures would count as many proofs.

    Args:
        scores: `[n, cells]`.
        weights: `[cells, sums]`; 1 for a cell's mean, −1 and 1 for a difference.
        clusters: `[n]`, what each sample belongs to.
        tail: probability of error of each bound.
        shares: scores are in 0 to 1; None: where those given are. Else nobody knows how much can be
            lost: the extra cluster is as far off as the farthest sample, and fewer than
            `FEWEST_UNBOUNDED` clusters have no bounds.
        family: probability that any sum is called clear of zero although it is zero. Such a sum's own
            interval leaves zero out, and it is farther from zero, in standard errors, than any of the
            sums together deviates from its own value in 1 − `family` of the draws.
        resamples, seed: of the bootstrap.

    Raises:
        ConfigError: scipy is not installed.
    """
    values = scores @ weights
    middle = values.mean(axis=0).tolist()
    _, owner, sizes = np.unique(np.asarray(clusters), return_inverse=True, return_counts=True)
    moved = weights.any(axis=0)  # not a cell against itself, of which all is known
    if shares is None:
        shares = are_shares(scores)
    if not shares and len(sizes) < FEWEST_UNBOUNDED:
        ends = np.where(moved, math.inf, 0.0).tolist()
        return [Estimate(value, 0.0 - end, end) for value, end in zip(middle, ends, strict=True)]
    # Every sum twice, with the extra cluster against its lower and against its upper bound.
    totals = np.stack([np.bincount(owner, weights=column) for column in values.T], axis=1)
    extra = sizes.max() * np.concatenate(_extremes(values, weights, shares))
    totals = np.vstack([np.hstack([totals, totals]), extra])
    counts = np.append(sizes, sizes.max()).astype(np.float64)[:, None]
    lows, highs, distance = _bootstrap(totals, counts, tail, family, resamples, seed)
    half = len(moved)
    low, high = lows[:half], highs[half:]
    above, below = (low > 0.0) & (distance[:half] > 1.0), (high < 0.0) & (distance[half:] < -1.0)
    found = zip(middle, low.tolist(), high.tolist(), (above | below).tolist(), strict=True)
    return [Estimate(*each) for each in found]


def _extremes(values: Floats, weights: Floats, shares: bool) -> tuple[Floats, Floats]:
    """The least and the greatest `[sums]` that a sample can add."""
    if shares:
        return np.minimum(weights, 0.0).sum(axis=0), np.maximum(weights, 0.0).sum(axis=0)
    far = np.abs(values).max(axis=0)
    change = np.isclose(weights.sum(axis=0), 0.0)  # a mean has no zero to be far from
    least = np.where(change, -far, values.min(axis=0))
    return least, np.where(change, far, values.max(axis=0))


def _bootstrap(
    totals: Floats, counts: Floats, tail: float, family: float, resamples: int, seed: int
) -> tuple[Floats, Floats, Floats]:
    """Low and high bounds of ratios of sums, and their distance from zero: 1 is just significant.

    Args:
        totals: `[clusters, ratios]`.
        counts: `[clusters, 1]`.
        tail, family, resamples, seed: as in `estimates`.
    """
    number = len(totals)

    def ratios(drawn: NDArray[np.intp], axis: int = -1) -> Floats:
        """`[ratios, draws]` of numbers of clusters `[draws, clusters]`."""
        rows = drawn.reshape(-1, drawn.shape[axis])
        places = rows + number * np.arange(len(rows))[:, None]
        times = np.bincount(places.ravel(), minlength=number * len(rows)).astype(np.float64)
        times = times.reshape(len(rows), number)
        return ((times @ totals) / (times @ counts)).T.reshape(-1, *drawn.shape[:-1])

    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore")  # of degenerate data, which are dealt with below
        found = scipy_stats().bootstrap(
            (np.arange(number),),
            ratios,
            vectorized=True,
            batch=max(1, _AT_ONCE // number),
            n_resamples=resamples,
            confidence_level=1.0 - 2.0 * tail,
            method="BCa",
            rng=np.random.default_rng(seed),
        )
    drawn, center = found.bootstrap_distribution, totals.sum(axis=0) / counts.sum()
    low, high = found.confidence_interval
    # BCa has no answer where all draws are equal, and a wrong one where the skew is beyond its
    # approximation: the farthest draw is on the safe side.
    low = np.where(low <= center, low, drawn.min(axis=-1))
    high = np.where(high >= center, high, drawn.max(axis=-1))
    spread = np.where(found.standard_error > 0.0, found.standard_error, math.inf)
    farthest = (np.abs(drawn - center[:, None]) / spread[:, None]).max(axis=0)
    return low, high, center / spread / max(float(np.quantile(farthest, 1.0 - family)), 1e-9)


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p of `gained` against `lost` discordant pairs, each as likely as the other.

    Raises:
        ConfigError: scipy is not installed.
    """
    number = gained + lost
    return float(scipy_stats().binomtest(gained, number).pvalue) if number else 1.0


def mcnemar_of(before: Floats, after: Floats) -> float | None:
    """McNemar's p of scores on the same samples; None where scores leave 0 to 1."""
    if not are_shares(np.concatenate([before, after])):
        return None
    right, right_now = before >= 1.0, after >= 1.0
    return mcnemar(int((~right & right_now).sum()), int((right & ~right_now).sum()))


def holm(chances: Sequence[float | None]) -> list[float | None]:
    """Holm's correction: p of each test such that any below 0.05 is wrong in 5 % of such families.

    The smallest is multiplied by the number of tests, the next by one less, and none is below one
    before it. None is no test.
    """
    order = sorted((p, place) for place, p in enumerate(chances) if p is not None)
    found: list[float | None] = [None] * len(chances)
    least = 0.0
    for rank, (p, place) in enumerate(order):
        least = max(least, min(1.0, p * (len(order) - rank)))
        found[place] = least
    return found
