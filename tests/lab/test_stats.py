"""Paired statistics against closed forms and known values."""

import math
import sys
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scores import by_kind

from lightkv.checkpoints.library_errors import import_problem
from lightkv.core.errors import ConfigError
from lightkv.lab.outcomes import Outcome
from lightkv.lab.stats import (
    CHANGE,
    estimates,
    holm,
    mcnemar,
    mean_interval,
    paired,
    scipy_stats,
)


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


def interval(values, clusters):
    [found] = estimates(values[:, None], np.ones((1, 1)), clusters)
    return found.low, found.high


def test_bootstrap_meets_the_closed_form():
    """For independent samples the interval is that of the mean, 1.96 σ/√n to each side, and a little
    for the one more that counts against each bound."""
    scores = np.random.default_rng(3).random(400)
    low, high = interval(scores, [str(i) for i in range(400)])
    assert 1.0 < (high - low) / (2 * 1.96 * scores.std() / 20) < 1.12


def by_hand(values, clusters, extra, share, draws=10_000, seed=0):
    """The BCa bound after Efron, step by step, of a mean with one more cluster of the value `extra`."""
    found = {}
    for value, cluster in zip(values, clusters, strict=True):
        found.setdefault(cluster, []).append(value)
    most = max(map(len, found.values()))
    found = [*(found[name] for name in sorted(found)), [extra] * most]
    totals, counts = (np.array([f(v) for v in found]) for f in (sum, len))
    chosen = np.random.default_rng(seed).integers(0, len(found), (draws, len(found)))
    means = np.sort(totals[chosen].sum(axis=1) / counts[chosen].sum(axis=1))
    mean = totals.sum() / counts.sum()
    ties = np.searchsorted(means, mean, "left") + np.searchsorted(means, mean, "right")
    left_out = (totals.sum() - totals) / (counts.sum() - counts)
    far = left_out.mean() - left_out
    skew = (far**3).sum() / (6 * (far**2).sum() ** 1.5)
    normal = NormalDist()
    bias = normal.inv_cdf(ties / (2 * draws))
    aim = bias + normal.inv_cdf(share)
    return np.quantile(means, normal.cdf(bias + aim / (1 - skew * aim)))


@pytest.mark.parametrize(("clusters", "lost", "won"), [(40, 0.1, 0.0), (200, 0.03, 0.02)])
def test_bounds_are_those_worked_by_hand(clusters, lost, won):
    draw = np.random.default_rng(clusters)
    owner = np.sort(draw.integers(0, clusters, 5 * clusters)).astype(str)  # of different sizes
    base, other = (draw.random(len(owner)) >= share for share in (won, lost))
    [found] = estimates(np.stack([base, other], axis=1).astype(float), CHANGE, owner)
    change = other.astype(float) - base
    assert found.value == pytest.approx(change.mean())
    assert found.low == pytest.approx(by_hand(change, owner, -1.0, 0.025))
    assert found.high == pytest.approx(by_hand(change, owner, 1.0, 0.975))


def test_cells_share_draws():
    """Many at once are what each is alone, and what is said of two differences is of the same draws."""
    draw = np.random.default_rng(0)
    scores = (draw.random((120, 4)) < 0.8).astype(float)
    owner = np.arange(120) // 3
    weights = np.array([[1.0, -1, 0, 0], [0, 1, -1, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    together = estimates(scores, weights, owner)
    alone = [estimates(scores, column[:, None], owner)[0] for column in weights.T]
    for one, other in zip(together, alone, strict=True):
        assert (one.value, one.low, one.high) == (other.value, other.low, other.high)
    assert (together[3].low, together[3].high, together[3].clear) == (0.0, 0.0, False)  # of itself


def lossy(draw, clusters, questions, hard, lost):
    """Scores of a model that is always right and of one that loses some of what is hard."""
    fails = np.repeat(draw.random(clusters) < hard, questions)
    fails &= draw.random(clusters * questions) < lost
    return np.stack([np.ones(len(fails)), 1.0 - fails], axis=1)


@pytest.mark.parametrize(("hard", "lost"), [(0.2, 0.5), (0.02, 1.0)])
def test_intervals_cover_the_truth_where_losses_come_in_clusters(hard, lost):
    draw, runs, missed = np.random.default_rng(0), 150, np.zeros(2)
    for run in range(runs):
        scores = lossy(draw, 100, 5, hard, lost)
        [found] = estimates(scores, CHANGE, np.arange(500) // 5, resamples=1000, seed=run)
        missed += (found.low > -hard * lost, found.high < -hard * lost)
    assert (missed / runs <= 0.025 + 2 * 0.0127).all()  # two standard errors of 150 runs
    assert hard < 0.1 or missed.sum() > 0  # nor so wide that it says nothing


def test_many_comparisons_are_rarely_wrong_about_any():
    """Twenty cells that differ from the baseline by chance alone: some interval leaves zero out in many
    studies, but few call any difference clear."""
    draw, runs, wrong, alone = np.random.default_rng(0), 60, 0, 0
    weights = np.vstack([-np.ones((1, 20)), np.eye(20)])
    for run in range(runs):
        right = draw.random((400, 1)) < 0.7
        moved = draw.random((400, 21)) < 0.1
        scores = np.where(moved, draw.random((400, 21)) < 0.7, right).astype(float)
        found = estimates(scores, weights, np.arange(400) // 2, resamples=1000, seed=run)
        wrong += any(each.clear for each in found)
        alone += any(each.low > 0 or each.high < 0 for each in found)
    assert wrong <= 5
    assert alone > 2 * wrong + 3
    scores[:, 7] *= draw.random(400) < 0.8  # and one that loses a fifth is found
    found = estimates(scores, weights, np.arange(400) // 2, resamples=1000)
    assert [number for number, each in enumerate(found) if each.clear] == [6]


def test_holm_by_hand():
    # 4 · 0.005, 3 · 0.01, 2 · 0.03, and 1 · 0.04, which is not below the one before it.
    expected = [0.03, None, 0.06, 0.06, 0.02]
    assert holm([0.01, None, 0.04, 0.03, 0.005]) == pytest.approx(expected)
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([None]) == [None]


def test_without_scipy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ConfigError, match=r"lightkv\[lab\]"):
        scipy_stats()


def test_clusters_are_drawn_whole():
    """Ten copies of each of 50 values say no more than the 50 values."""
    scores = np.random.default_rng(5).random(50)
    alone = interval(scores, [f"{i:02}" for i in range(50)])
    copied = interval(np.repeat(scores, 10), [f"{i // 10:02}" for i in range(500)])
    assert copied == pytest.approx(alone)
    free = interval(np.repeat(scores, 10), [str(i) for i in range(500)])
    assert free[1] - free[0] < 0.5 * (alone[1] - alone[0])


@pytest.mark.parametrize("number", [1, 20, 100])
def test_samples_that_all_agree_are_not_certain(number):
    right, wrong = outcomes([1] * number), outcomes([0] * number)
    exact = 1.0 - 0.025 ** (1.0 / number)  # Clopper and Pearson, none of `number` lost
    same = paired(right, right)
    assert same.difference == 0.0
    assert min(exact, 1.0) * 0.5 <= -same.low <= 1.0
    assert same.low == pytest.approx(-same.high)
    if number > 1:
        assert exact < -same.low < 3 * exact
    lost = paired(right, wrong)
    assert lost.low == -1.0 < lost.high
    mean, low, high = mean_interval(right)
    assert (mean, high) == (1.0, 1.0)
    assert 1.0 - low == pytest.approx(-same.low)


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
    logs = paired(outcomes([-0.5, -1.0]), outcomes([-0.4, -2.0]))
    assert logs.mcnemar_p is None
    assert (logs.low, logs.high) == (-math.inf, math.inf)  # nobody knows how much can be lost
    many = paired(outcomes([-0.5, -1.0] * 20), outcomes([-0.4, -2.0] * 20))
    assert many.difference == pytest.approx(-0.45)
    assert -1.0 < many.low < -0.45 < many.high < 0.0


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(1, 6))
def test_a_cell_against_itself(scores, size):
    cell = outcomes(scores, clusters=[i // size for i in range(len(scores))])
    found = paired(cell, cell, resamples=50)
    assert found.difference == 0.0
    assert found.low < 0.0 < found.high  # samples that agree are no proof that all do
    assert found.low == pytest.approx(-found.high)
    assert found.mcnemar_p == 1.0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40))
def test_swapping_the_cells_mirrors_the_difference(pairs):
    one, two = (outcomes([pair[i] for pair in pairs]) for i in (0, 1))
    there, back = paired(one, two, resamples=200), paired(two, one, resamples=200)
    assert there.difference == pytest.approx(-back.difference)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-12)
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


def test_a_scipy_that_is_there_and_broken_is_not_called_missing(tmp_path, monkeypatch):
    """Its own error comes through, and a command tells it with the package's name."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "scipy"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "scipy.py").write_text("raise ImportError('built for NumPy 1')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="built for NumPy 1") as caught:
        scipy_stats()
    assert "scipy cannot be imported (built for NumPy 1)" in str(import_problem(caught.value))
