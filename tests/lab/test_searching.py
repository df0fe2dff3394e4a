"""The search behind tuning, without a model: knees, races of schedules, bounds and growing samples."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightkv.core.errors import ConfigError
from lightkv.core.pipeline.pipeline import resolve_spec
from lightkv.lab import tune
from lightkv.lab.outcomes import Outcome
from lightkv.lab.search.candidates import candidates
from lightkv.lab.search.loss_bounds import growing, margin
from lightkv.lab.search.smallest import Race, most_points, search
from lightkv.lab.tasks import Sample

# -- the search, without a model ------------------------------------------------------------------


def recording(judge):
    calls = []

    def judged(point, rung):
        calls.append((point, rung))
        return judge(point, rung)

    return calls, judged


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_the_search_finds_the_knee_of_a_sweep(case):
    points, knee = case  # the knee is `points` where nothing passes
    calls, judge = recording(lambda point, rung: "accepted" if point >= knee else "rejected")
    found = search(points, 3, judge)
    assert found.answer == (knee if knee < points else None)
    assert not found.exhausted
    assert found.odd == ()
    assert len(found.looks) <= most_points(points) <= math.log2(points) + 3
    assert len(set(calls)) == len(calls)  # nothing is asked twice
    for point in (knee - 1, knee):  # both sides of the knee are judged on all samples
        if 0 <= point < points:
            assert found.looks[point].rung == 2


@given(st.data())
def test_early_looks_that_mislead_cost_no_more_than_evaluations(data):
    points = data.draw(st.integers(1, 30))
    knee = data.draw(st.integers(0, points))
    early = {}

    def judge(point, rung):
        if rung == 2:
            return "accepted" if point >= knee else data.draw(missed)
        verdicts = st.sampled_from(["accepted", "rejected", "undecided"])
        return early.setdefault((point, rung), data.draw(verdicts))

    missed = st.sampled_from(["rejected", "undecided"])  # undecided on all samples does not pass
    found = search(points, 3, judge, budget=points)
    assert found.answer == (knee if knee < points else None)
    assert found.odd == ()


@given(st.data())
def test_whatever_the_shape_the_answer_passed_on_all_samples(data):
    points = data.draw(st.integers(1, 30))
    budget = data.draw(st.integers(1, points))
    passes = data.draw(st.lists(st.booleans(), min_size=points, max_size=points))

    def judge(point, rung):
        return ("accepted" if passes[point] else "rejected") if rung else "undecided"

    found = search(points, 2, judge, budget)
    assert len(found.looks) <= budget
    if found.answer is not None:
        assert passes[found.answer]
        assert all(passes[p] and p < found.answer for p in found.odd)
        assert found.exhausted or found.answer == 0 or not passes[found.answer - 1]


def test_quality_that_does_not_grow_is_reported():
    passes = [False, False, False, True, False, True, True, True, True]
    found = search(9, 1, lambda point, rung: "accepted" if passes[point] else "rejected")
    assert found.answer == 5
    assert found.odd == (3,)


# -- several schedules ----------------------------------------------------------------------------


def names(preset, asked=None):
    return [each.name for each in candidates(preset, resolve_spec(preset), asked)]


def test_schedules_to_try_follow_from_the_recipe():
    assert names("lightkv") == ["lightkv", "lightkv (ratio 0.4)", "lightkv (ratio 0.35)"]
    assert names("fastv") == ["fastv", "fastv (after_layer 1)", "fastv (after_layer 4)"]
    assert names("pyramiddrop") == ["pyramiddrop", "pyramiddrop (depths 0.175-0.35-0.525)"]
    assert names("visionzip") == ["visionzip"]  # before the decoder: there is no other place
    assert names("rand") == ["rand"]  # nor on the cache


def test_schedules_that_are_asked_for():
    assert names("lightkv", ["own"]) == ["lightkv"]
    asked = ["ratio: 0.3, windows: [6, 3, 1]", {"ratio": 0.5}, {"after_layer": 2}]
    made = candidates("lightkv", resolve_spec("lightkv"), asked)  # a ratio of 0.5 is its own
    labels = ["", "ratio 0.3, windows 6-3-1", "after_layer 2"]
    assert [each.schedule for each in made] == labels
    assert made[1].spec.schedule.windows == (6, 3, 1)
    assert made[1].spec.model_copy(update={"schedule": made[0].spec.schedule}) == made[0].spec


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("rato: 0.4", "Did you mean 'ratio'"),
        ("ratio", "no key of a recipe with a value"),
        ("ratio=0.4", "Such as 'ratio: 0.4'"),
        ("ratio: [0.4", "cannot be read"),
        ("ratio: 0.4, ratio: 0.3", "cannot be read"),
        ("ratio: much", "valid number"),
        ("retention: 0.5", "what tune looks for"),
        ({}, "a change of the strategy's recipe"),
        (0.4, "a change of the strategy's recipe"),
    ],
)
def test_schedules_that_cannot_be_meant(asked, message):
    with pytest.raises(ConfigError, match=message):
        tune("no such model", "scenes:5", schedules=[asked])


@given(st.integers(1, 8), st.integers(1, 5), st.randoms(use_true_random=False))
def test_a_race_looks_at_fewer_the_more_a_look_takes(number, rungs, random):
    worth = random.sample(range(number), number)
    race = Race(list(range(number)))
    for rung in range(rungs):
        looked = []

        def look(one, looked=looked):
            looked.append(one)
            return "undecided", worth[one]

        assert race.run(rung, look) == "undecided"
        assert len(looked) == math.ceil(number / 2**rung)
        if rung:  # the best of those looked at before
            assert sorted(worth[one] for one in looked) == list(range(number))[-len(looked) :]
    assert race.winner is None


def test_a_race_ends_with_the_first_that_is_accepted():
    race = Race(["own", "gentle", "gentler"])
    told = {"own": ("rejected", -5.0), "gentle": ("accepted", -1.0)}
    assert race.run(0, told.__getitem__) == "accepted"
    assert race.winner == "gentle"
    # It misled: on all samples it does not pass, and the one that nobody looked at does.
    told = {"gentle": ("undecided", -2.0), "gentler": ("accepted", 0.0)}
    assert race.run(2, told.__getitem__) == "accepted"
    assert race.winner == "gentler"
    assert race.run(2, lambda one: ("rejected", -9.0)) == "rejected"
    assert race.winner is None


# -- bounds ---------------------------------------------------------------------------------------


def outcomes(scores, per_cluster=1):
    return [Outcome(f"{n}", f"{n // per_cluster}", "", "", "", s) for n, s in enumerate(scores)]


@pytest.mark.parametrize("number", [20, 100, 400])
def test_samples_that_all_agree_still_have_a_bound(number):
    found = margin(outcomes([1.0] * number), outcomes([1.0] * number), 0.05)
    exact = 1.0 - 0.05 ** (1.0 / number)  # Clopper and Pearson, none of `number` lost
    assert found.difference == 0.0
    assert exact < -found.low < 3 * exact
    assert found.high == pytest.approx(-found.low)
    assert found.verdict(4 * exact) == "accepted"
    assert found.verdict(exact) == "undecided"


@pytest.mark.parametrize(("fail", "lose"), [(0.2, 0.25), (0.1, 0.2)])
def test_a_loss_at_the_threshold_is_rarely_accepted(fail, lose):
    """The promise itself: of data whose true loss is `max_drop`, 1 − confidence pass at most."""
    draw, wrong, runs = np.random.default_rng(0), 0, 300
    base = outcomes([1.0] * 1200, 4)
    for run in range(runs):
        hard = np.repeat(
            draw.uniform(size=300) < fail, 4
        )  # questions about a picture fail together
        lost = hard & (draw.uniform(size=1200) < lose)
        other = outcomes(list(1.0 - lost.astype(float)), 4)
        found = margin(base, other, 0.05, seed=run, resamples=2000)
        wrong += found.verdict(fail * lose) == "accepted"
    assert wrong / runs <= 0.05
    assert wrong > 0  # nor is the bound so wide that it says nothing


@pytest.mark.parametrize(("pictures", "questions", "lost"), [(50, 20, 0.01), (60, 6, 0.02)])
def test_many_questions_about_a_picture_are_not_many_proofs(pictures, questions, lost):
    """Pictures that fail whole, and so seldom that most data sets show no failure at all."""
    draw, wrong, runs = np.random.default_rng(0), 0, 100
    base = outcomes([1.0] * (pictures * questions), questions)
    for run in range(runs):
        failed = np.repeat(draw.uniform(size=pictures) < lost, questions)
        other = outcomes(list(1.0 - failed.astype(float)), questions)
        found = margin(base, other, 0.01, seed=run, resamples=2000)
        wrong += found.verdict(lost) == "accepted"
    assert wrong / runs <= 0.01


def test_scores_without_a_limit_need_more_than_a_few_pictures():
    base, other = outcomes([-1.0] * 40), outcomes([-1.1] * 40)
    few = margin(base[:19], other[:19], 0.05, accuracy=False)
    assert few.verdict(0.5) == "undecided"
    assert margin(base, other, 0.05, accuracy=False).verdict(0.5) == "accepted"


@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=40),
    st.floats(0.001, 0.3),
    st.randoms(use_true_random=False),
)
def test_bounds_enclose_the_difference(scores, alpha, random):
    base = outcomes(scores, 2)
    other = outcomes([random.choice([0.0, 1.0]) for _ in scores], 2)
    found = margin(base, other, alpha, resamples=500)
    assert -1.0 <= found.low <= found.difference <= found.high <= 1.0
    shuffled = random.sample(other, len(other))
    assert margin(base, shuffled, alpha, resamples=500) == found


@given(st.integers(1, 60), st.integers(1, 5), st.integers(0, 9), st.integers(1, 80))
def test_rungs_are_whole_pictures(pictures, questions, seed, most):
    samples = [
        Sample(f"{p}-{q}", f"{p}", "", "?", (), None)
        for p, q in itertools.product(range(pictures), range(questions))
    ]
    rungs = growing(samples, seed, most)
    used = [sample for rung in rungs for sample in rung]
    assert len({s.id for s in used}) == len(used) <= max(most, questions)
    clusters = [{s.cluster for s in rung} for rung in rungs]
    assert all(clusters)
    assert sum(map(len, clusters)) * questions == len(used)
    assert growing(samples, seed) == growing(samples, seed)
    assert sum(map(len, growing(samples, seed))) == len(samples)
