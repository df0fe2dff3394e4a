"""What a difference between two cells is worth.

Samples that share a picture are not independent, so the bootstrap draws pictures (clusters), not
samples: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 8. The intervals are
percentile intervals. McNemar's test is the exact binomial one (Psychometrika 12, 1947).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from lightkv.core.errors import ConfigError
from lightkv.lab.outcomes import Outcome

RESAMPLES = 10_000
LEVEL = 0.95
_AT_ONCE = 2**22
"""Drawn clusters held in memory at once."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """Another cell minus the baseline, on the same samples.

    Attributes:
        n: samples.
        mean_base, mean_other: plain means over them.
        difference: other minus base.
        low, high: 95 % interval of it, by paired bootstrap over clusters.
        wins, losses: samples on which the other scores higher, lower.
        mcnemar_p: two-sided, exact: whether as many samples turn wholly right as stop being so; a
            score counts as wholly right at 1. None where scores leave 0 to 1 (log-probabilities).
    """

    n: int
    mean_base: float
    mean_other: float
    difference: float
    low: float
    high: float
    mcnemar_p: float | None
    wins: int
    losses: int


def paired(
    base: Sequence[Outcome],
    other: Sequence[Outcome],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """The difference between two cells that answered the same samples.

    Raises:
        ConfigError: no samples, or other ones in the two cells.
    """
    found = {outcome.sample: outcome for outcome in other}
    if not base or {outcome.sample for outcome in base} != set(found):
        raise ConfigError(
            "paired statistics need the same samples in both cells",
            field="samples",
            value=f"{len(base)} and {len(other)}",
            remedy="compare cells of the same task",
        )
    before = np.array([outcome.score for outcome in base], dtype=np.float64)
    after = np.array([found[outcome.sample].score for outcome in base], dtype=np.float64)
    change = after - before
    low, high = interval(change, [outcome.cluster for outcome in base], resamples, seed)
    return Difference(
        n=len(base),
        mean_base=float(before.mean()),
        mean_other=float(after.mean()),
        difference=float(change.mean()),
        low=low,
        high=high,
        mcnemar_p=_mcnemar_of(before, after),
        wins=int((change > 0).sum()),
        losses=int((change < 0).sum()),
    )


def mean_interval(
    outcomes: Sequence[Outcome], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float, float]:
    """Mean score and its 95 % interval, by bootstrap over clusters.

    Raises:
        ConfigError: no outcomes.
    """
    if not outcomes:
        raise ConfigError("there are no outcomes to take a mean of", field="outcomes", value=0)
    scores = np.array([outcome.score for outcome in outcomes], dtype=np.float64)
    low, high = interval(scores, [outcome.cluster for outcome in outcomes], resamples, seed)
    return float(scores.mean()), low, high


def by_kind(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Kind of question → its outcomes, in the order of first appearance."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.kind, []).append(outcome)
    return found


def interval(
    values: Floats, clusters: Sequence[str], resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the mean of `values` `[n]`, when whole clusters are drawn anew."""
    means = resampled_means(values, clusters, resamples, seed)
    tail = 50.0 * (1.0 - LEVEL)
    low, high = np.percentile(means, [tail, 100.0 - tail])
    return float(low), float(high)


def resampled_means(
    values: Floats, clusters: Sequence[str], resamples: int = RESAMPLES, seed: int = 0
) -> Floats:
    """`[resamples]` means of `values` `[n]` over clusters drawn with replacement."""
    _, owner = np.unique(np.asarray(clusters), return_inverse=True)
    counts = np.bincount(owner).astype(np.float64)
    totals = np.bincount(owner, weights=values)
    number = len(counts)
    generator = np.random.default_rng(seed)
    step = max(1, _AT_ONCE // number)
    means = []
    for first in range(0, resamples, step):
        rows = min(step, resamples - first)
        drawn = generator.integers(0, number, size=(rows, number))
        means.append(totals[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return np.concatenate(means)


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p of `gained` against `lost` discordant pairs, each as likely as the other.

    Twice the smaller tail of Binomial(gained + lost, ½), at most 1.
    """
    number, fewer = gained + lost, min(gained, lost)
    term, total = 1, 1
    for k in range(fewer):
        term = term * (number - k) // (k + 1)
        total += term
    # Whole numbers throughout: the sum has as many bits as there are pairs.
    return float(min(Fraction(1), Fraction(2 * total, 2**number)))


def _mcnemar_of(before: Floats, after: Floats) -> float | None:
    both = np.concatenate([before, after])
    if both.min() < 0.0 or both.max() > 1.0:
        return None
    right, right_now = before >= 1.0, after >= 1.0
    return mcnemar(int((~right & right_now).sum()), int((right & ~right_now).sum()))
