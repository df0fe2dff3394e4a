"""Paired statistics against closed forms and known values."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightkv.core.errors import ConfigError
from lightkv.lab.outcomes import Outcome
from lightkv.lab.stats import by_kind, interval, mcnemar, mean_interval, paired, resampled_means


def outcomes(scores, clusters=None, kinds=None):
    return [
        Outcome(
            f"s{i:05}",
            f"c{i}" if clusters is None else str(clusters[i]),
            "" if kinds is None else kinds[i],
            "?",
            "",
            float(score),
        )
        for i, score in enumerate(scores)
    ]


def test_mcnemar_known_values():
    # Binomial(n, 1/2) tails, worked by hand: 2 · (1 + 10 + 45) / 1024 and 2 · 1 / 2^5.
    assert mcnemar(2, 8) == pytest.approx(112 / 1024)
    assert mcnemar(0, 5) == pytest.approx(2 / 32)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(7, 7) == 1.0
    # R: mcnemar.exact with 59 and 6 discordant pairs.
    tail = sum(math.comb(65, k) for k in range(7)) / 2**65
    assert mcnemar(59, 6) == pytest.approx(2 * tail, rel=1e-12)
    assert 0.0 < mcnemar(4000, 4400) < 1e-4  # whole numbers: neither overflow nor 0/0


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_a_symmetric_probability(gained, lost):
    assert mcnemar(gained, lost) == mcnemar(lost, gained)
    assert 0.0 < mcnemar(gained, lost) <= 1.0


def test_bootstrap_meets_the_closed_form():
    """For independent samples the bootstrap's spread is that of the mean: σ/√n."""
    scores = np.random.default_rng(3).random(400)
    means = resampled_means(scores, [str(i) for i in range(400)], 20_000)
    assert means.mean() == pytest.approx(scores.mean(), abs=1e-3)
    assert means.std() == pytest.approx(scores.std() / 20, rel=0.03)
    low, high = interval(scores, [str(i) for i in range(400)])
    assert high - low == pytest.approx(2 * 1.96 * scores.std() / 20, rel=0.05)


def test_clusters_are_drawn_whole():
    """Ten copies of each of 50 values say no more than the 50 values."""
    scores = np.random.default_rng(5).random(50)
    alone = interval(scores, [str(i) for i in range(50)])
    copied = interval(np.repeat(scores, 10), [str(i // 10) for i in range(500)])
    assert copied == pytest.approx(alone)
    free = interval(np.repeat(scores, 10), [str(i) for i in range(500)])
    assert free[1] - free[0] < 0.5 * (alone[1] - alone[0])


def test_paired_counts_and_pairs_by_identity():
    base = outcomes([1, 1, 0, 0, 1, 0])
    other = list(reversed(outcomes([1, 0, 1, 1, 1, 1])))
    found = paired(base, other)
    assert (found.n, found.wins, found.losses) == (6, 3, 1)
    assert found.mean_base == pytest.approx(0.5)
    assert found.mean_other == pytest.approx(5 / 6)
    assert found.difference == pytest.approx(2 / 6)
    assert found.mcnemar_p == mcnemar(3, 1)
    assert found.low <= found.difference <= found.high


def test_graded_scores_are_right_at_one_and_log_probabilities_never():
    graded = paired(outcomes([0.5, 1.0, 0.2]), outcomes([1.0, 1.0, 0.4]))
    assert graded.mcnemar_p == mcnemar(1, 0)
    assert (graded.wins, graded.losses) == (2, 0)
    assert paired(outcomes([-0.5, -1.0]), outcomes([-0.4, -2.0])).mcnemar_p is None


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(1, 6))
def test_a_cell_against_itself(scores, size):
    cell = outcomes(scores, clusters=[i // size for i in range(len(scores))])
    found = paired(cell, cell, resamples=50)
    assert (found.difference, found.low, found.high) == (0.0, 0.0, 0.0)
    assert found.mcnemar_p == 1.0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40))
def test_swapping_the_cells_mirrors_the_difference(pairs):
    one, two = (outcomes([pair[i] for pair in pairs]) for i in (0, 1))
    there, back = paired(one, two, resamples=200), paired(two, one, resamples=200)
    assert there.difference == pytest.approx(-back.difference)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert (there.wins, there.losses) == (back.losses, back.wins)


def test_other_samples_are_refused():
    for other in (outcomes([1, 0, 1]), []):
        with pytest.raises(ConfigError, match="same samples"):
            paired(outcomes([1, 0]), other)
    with pytest.raises(ConfigError, match="no outcomes"):
        mean_interval([])


def test_mean_and_kinds():
    cell = outcomes([1, 0, 1, 1], kinds=["a", "b", "a", "b"])
    mean, low, high = mean_interval(cell)
    assert mean == 0.75
    assert 0 <= low <= mean <= high <= 1
    assert {kind: len(found) for kind, found in by_kind(cell).items()} == {"a": 2, "b": 2}
    assert mean_interval(cell) == mean_interval(cell)
