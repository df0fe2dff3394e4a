"""What a search says of its trials, on made-up outcomes: effects, early ends, rivals, worth."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lightkv.lab.designs import asking
from lightkv.lab.designs.effects import ENOUGH, SHUFFLES, Trial, effects_of
from lightkv.lab.designs.findings import strongest_rival, worth
from lightkv.lab.designs.pruning import Rule
from lightkv.lab.designs.sentences import SURE, sentences
from lightkv.lab.outcomes import Cell, Outcome, Sample
from lightkv.lab.search.loss_bounds import growing
from lightkv.lab.subject import Usage

NUMBER = 200


def outcomes(right, number=NUMBER):
    """The first `right` of `number` samples are answered rightly."""
    return [
        Outcome(f"{k:03}", f"{k:03}", "", "?", "", 1.0 if k < right else 0.0) for k in range(number)
    ]


def cell(name, flops, status="done"):
    spec = {"model": "m", "task": {}, "part": "searched", "pipeline": {"name": name}}
    return Cell(name, 0, name, {}, spec, status, flops=flops)


def test_what_a_choice_does_is_found_and_chance_is_not():
    rng = np.random.default_rng(0)
    trials = []
    for number in range(80):
        choices = {
            "strong": "ab"[number % 2],
            "nothing": str(rng.integers(2)),
            "number": str(round(rng.uniform(), 3)),
        }
        if number % 2:
            choices["strong=b.inner"] = "xyz"[rng.integers(3)]
        level = 0.2 if number % 4 < 2 else 0.0  # of the retention, which is no effect
        change = level + 0.1 * (number % 2) + 0.01 * rng.normal()
        trials.append(Trial("0.5" if number % 4 < 2 else "0.2", choices, change))
    found = {effect.path: effect for effect in effects_of(trials)}
    assert next(iter(found)) == "strong"
    assert found["strong"].share > 0.9
    assert found["strong"].p == pytest.approx(4 / (SHUFFLES + 1))  # Holm: the smallest of four
    assert [level.label for level in found["strong"].levels] == ["b", "a"]
    assert found["strong"].levels[0].gain == pytest.approx(0.05, abs=0.01)
    assert found["strong=b.inner"].trials == 40
    assert len(found["number"].levels) == 3
    for path in ("nothing", "number", "strong=b.inner"):
        assert found[path].share < 0.2
        assert found[path].p > 0.05


def test_omega_squared_is_that_of_the_formula():
    values = {"a": [1.0, 2.0, 3.0], "b": [2.0, 4.0, 6.0, 8.0]}
    trials = [Trial("r", {"x": key}, v) for key, some in values.items() for v in some]
    [found] = effects_of(trials)
    everything = [v for some in values.values() for v in some]
    grand = sum(everything) / 7
    between = sum(len(s) * (sum(s) / len(s) - grand) ** 2 for s in values.values())
    inside = sum((v - sum(s) / len(s)) ** 2 for s in values.values() for v in s)
    mean_square = inside / (7 - 2)
    total = between + inside
    assert found.share == pytest.approx((between - mean_square) / (total + mean_square), abs=1e-12)


def test_few_trials_or_a_choice_that_never_changed_say_nothing():
    trials = [Trial("r", {"x": "ab"[k % 2], "same": "a"}, float(k)) for k in range(5)]
    assert effects_of(trials) == []
    assert effects_of([]) == []


def test_what_few_trials_say_is_called_too_little():
    def found(number):
        trials = [Trial("r", {"x": "ab"[k % 2]}, k % 2 + 0.1 * k / number) for k in range(number)]
        [effect] = effects_of(trials)
        return effect

    def told(effect):
        made = SimpleNamespace(
            share=True, score=0.9, retentions=[], effects=(effect,), tried=(), study={"space": {}}
        )
        made.points = lambda value, **_: f"{value}"
        return " ".join(sentences(made))

    few, enough = found(ENOUGH - 1), found(ENOUGH)
    assert few.p <= SURE
    assert not few.enough
    assert "Fewer than 20 trials are too few to say whether these mattered: x." in told(few)
    assert "went with the score" not in told(few)
    assert enough.enough
    assert "Choices that went with the score: x." in told(enough)


@pytest.mark.parametrize(("trials", "share"), [(20, 0.21), (8, 0.54)])
def test_what_chance_gives_with_few_trials(trials, share):
    """The 95 % quantile of ω² of a choice of three options that does nothing, as the page says it."""
    f = pytest.importorskip("scipy.stats").f.ppf(0.95, 2, trials - 3)
    assert 2 * (f - 1) / (2 * (f - 1) + trials) == pytest.approx(share, abs=0.006)


def test_a_part_of_the_samples_is_compared_with_the_same_part():
    assert worth(outcomes(200), outcomes(150)) == pytest.approx(-0.25)
    assert worth(outcomes(10), outcomes(20, 20)) == pytest.approx(0.5)


def test_a_rival_costs_no_more_and_was_asked_everything():
    cells = [cell("dear", 0.8), cell("cheap", 0.4), cell("part", 0.3), cell("gone", 0.1, "failed")]
    answered = {"dear": outcomes(190), "cheap": outcomes(150), "part": outcomes(50, 50)}
    assert strongest_rival(cells, answered, 0.5, NUMBER) == "cheap"
    assert strongest_rival(cells, answered, 0.795, NUMBER) == "dear"  # equal within 0.01
    assert strongest_rival(cells, answered, 0.2, NUMBER) is None


def test_a_trial_ends_where_it_is_shown_to_be_beaten():
    answered = {"vanilla": outcomes(200), "rival": outcomes(180)}
    cells = [cell("rival", 0.4)]
    rule = Rule(0.1)
    weak, close = outcomes(10, 50), outcomes(49, 50)
    assert rule.ended_by(weak, 0.5, cells, answered) == "rival scores higher at no more cost"
    assert rule.ended_by(close, 0.5, cells, answered) == ""
    assert rule.ended_by(weak, 0.2, cells, answered) == ""  # cheaper than the rival
    assert Rule(0.1, max_drop=0.3).ended_by(weak, 0.2, cells, answered) == "loses more than 0.3"
    assert Rule(0.1, max_drop=0.9).ended_by(weak, 0.2, cells, answered) == ""


def test_a_beaten_trial_is_asked_no_more(monkeypatch):
    samples = [
        Sample(f"{k:03}", f"{k:03}", "", "?", (), Image.new("RGB", (4, 4))) for k in range(40)
    ]
    cost = Usage(0.5, 0.4, 0.5, ())
    subject = SimpleNamespace(
        prepare=lambda *args, **options: None,
        try_on=lambda *args: cost,
        answering=lambda session: nullcontext(),
    )
    task = SimpleNamespace(evaluate=lambda subject, some, reference: answers(some))
    monkeypatch.setattr(asking, "usage", lambda session: cost)
    looks = []

    def beaten(found, flops):
        looks.append((len(found), flops))
        return "enough" if len(looks) == 2 else ""

    asker = asking.Asker(subject, task, growing(samples, 0), 0)
    found = asker.ask({"matcher": "bipartite"}, beaten=beaten)
    assert looks == [(10, 0.4), (20, 0.4)]
    assert found.beaten == "enough"
    assert [o.sample for o in found.outcomes] == sorted(o.sample for o in found.outcomes)
    assert len(found.outcomes) == 20
    assert len(asker.ask({"matcher": "bipartite"}).outcomes) == 40


def answers(samples):
    return [Outcome(s.id, s.cluster, "", "?", "", 1.0) for s in samples]
