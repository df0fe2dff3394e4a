"""Tuning: what a user says, and the bundled model end to end."""

import errno
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from lightkv.core.errors import ConfigError, LightKVError, LightKVWarning
from lightkv.core.pipeline.pipeline import PipelineSpec, resolve_spec
from lightkv.lab import tune
from lightkv.lab.errors import NotShownError, TaskError
from lightkv.lab.search.evaluator import Evaluator
from lightkv.lab.search.loss_bounds import growing, margin
from lightkv.lab.search.result import HEAD, write
from lightkv.lab.search.smallest import most_points
from lightkv.lab.search.tune import _about_truth, retentions, share, task_of
from lightkv.lab.subject import Subject
from lightkv.lab.tasks import build_task

# -- what a user says -----------------------------------------------------------------------------


def test_numbers_in_short():
    assert share("1%", "f", 0, 1, "") == share(0.01, "f", 0, 1, "") == 0.01
    assert retentions("0.2:0.95", 0.05) == [round(0.05 * k, 2) for k in range(4, 20)]
    assert retentions((0.5, 0.66), 0.1) == [0.5, 0.6, 0.66]
    assert retentions("0.5:0.5", 0.1) == [0.5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_drop": "0%"}, "max_drop"),
        ({"max_drop": 1.0}, "such as 1%"),
        ({"max_drop": "much"}, "between 0 and 1"),
        ({"confidence": 95}, "such as 95%"),
        ({"range": "0.9:0.2"}, "the smaller first"),
        ({"range": "0.2"}, "the smaller first"),
        ({"range": "0.2:1.1"}, "at most 1"),
        ({"step": 0.0}, "step"),
        ({"step": float("nan")}, "step"),
        ({"budget": 0}, "budget"),
        ({"samples": 0}, "samples"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**70}, "below 2"),
        ({"strategy": " , "}, "no strategy"),
        ({"strategy": "lightvk"}, "Did you mean 'lightkv'"),
        ({"data": "nowhere.jsonl"}, "no such file"),
        ({"data": "scenes:0"}, "greater than or equal to 1"),
        ({"data": "scenes:5", "task": "agrement"}, "Did you mean 'agreement'"),
        ({"data": "scenes:5", "question": "why?"}, "of their own"),
        ({"out": "nowhere/at/all.yaml"}, "folder that exists"),
    ],
)
def test_nonsense_is_named_before_a_model_is_loaded(options, message):
    with pytest.raises(ConfigError, match=message):
        tune("no such model", **{"data": "scenes:5", **options})


def test_bounds_need_scipy_before_a_model_is_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ConfigError, match=r"lightkv\[lab\]"):
        tune("no such model", "scenes:5")


def test_a_strategy_with_explicit_stages_has_no_retention_to_tune(tmp_path):
    path = tmp_path / "fixed.yaml"
    path.write_text("matcher: bipartite\nschedule: [{after_layer: 3, ratio: 0.5}]\n")
    with pytest.raises(ConfigError, match="explicit stages"):
        tune("no such model", "scenes:5", strategy=str(path))


def lines(folder, *answers):
    Image.new("RGB", (32, 32)).save(folder / "a.png")
    rows = [{"image": "a.png", "question": "?", **({"answers": [a]} if a else {})} for a in answers]
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_data_decide_the_task(tmp_path):
    assert (
        task_of("scenes:7", seed=3).spec()
        == build_task({"name": "scenes", "scenes": 7, "seed": 3}).spec()
    )
    assert task_of("clips:9", seed=3).spec()["clips"] == 9
    clips = {"name": "clips", "clips": 5, "steps": 8, "rows": 8, "columns": 6}
    given = "{name: clips, clips: 5, steps: 8, rows: 8, columns: 6}"
    assert task_of(given).spec() == build_task(clips).spec()
    with pytest.raises(TaskError, match="no YAML"):
        task_of("{name: clips")
    path = lines(tmp_path, "one", "two")
    assert task_of(path).name == "files"
    assert task_of(path, "perplexity").spec()["of"]["path"] == str(path)
    path = lines(tmp_path, None, None)
    found = task_of(path, measure="overlap")
    assert (found.name, found.spec()["measure"]) == ("agreement", "overlap")
    path = lines(tmp_path, "one", None)
    with pytest.raises(TaskError, match="1 of 2 samples have answers"):
        task_of(path)
    assert task_of(path, "agreement").name == "agreement"
    (tmp_path / "a.png").unlink()
    with pytest.raises(TaskError, match="no such picture"):
        task_of(path)
    for name in ("scenes", "clips"):
        with pytest.raises(TaskError, match=f"no {name}"):
            task_of(path, name)


# -- the bundled model ----------------------------------------------------------------------------

COUNTS = {"name": "scenes", "scenes": 24, "kinds": ["count"]}


@pytest.fixture(scope="module")
def subject():
    return Subject.load()


@pytest.fixture(scope="module")
def tuned(subject, tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned") / "tuned.yaml"
    steps = []
    found = tune(
        subject,
        COUNTS,
        max_drop="40%",
        range="0.2:0.7",
        step=0.1,
        schedules=["own"],
        out=out,
        progress=steps.append,
    )
    return found, out, steps


def test_the_bundled_model_has_a_knee(tuned, subject):
    found, _, steps = tuned
    # A sweep that asks every retention the same on all samples.
    task = build_task(COUNTS)
    rungs = growing(task.samples(), 0)
    evaluator = Evaluator(subject, task, rungs)
    last, alpha = len(rungs) - 1, 1.0 - found.decision_confidence
    lightkv = resolve_spec("lightkv")
    here = [found.retention, round(found.retention - 0.1, 6)]
    verdicts = {}
    for retention in here:
        other = evaluator.outcomes("lightkv", lightkv, retention, last)
        verdicts[retention] = margin(evaluator.base(last), other, alpha).verdict(0.4)
    assert verdicts[here[0]] == "accepted"
    assert verdicts[here[1]] != "accepted"
    assert found.evaluations == len(found.trials) <= most_points(6)
    assert found.answered < found.sweep == 6 * 24
    assert steps[0].retention is None  # the uncompressed model comes first
    assert sum(s.samples for s in steps if s.retention is not None) == found.answered
    assert found.margin.low > -0.4
    assert found.margin.low <= found.difference.difference <= found.margin.high


def test_the_file_runs_and_holds_the_evidence(tuned, subject):
    found, out, _ = tuned
    text = out.read_text()
    assert text.startswith(HEAD)
    for part in ("model: demo", "24 pictures", "confidence", "tried", "versions: lightkv"):
        assert part in text
    assert text.count("# - lightkv 0.") == found.evaluations
    spec = PipelineSpec.from_file(out)
    assert spec == found.pipeline
    assert isinstance(spec.schedule, tuple)
    assert spec.name == "lightkv-tuned"
    assert spec.source.startswith("lightkv tune, made of lightkv (")
    assert "# a tuned pipeline: its stages" in text
    samples = build_task(COUNTS).samples()[:1]
    with subject.compressed(out):
        subject.generate(samples, 2)
        assert subject.last_retentions == [pytest.approx(found.achieved, abs=0.02)]
    json.dumps(found.to_dict())


def test_agreement_needs_no_labels_and_strategies_compete(subject, tmp_path):
    task = {"name": "agreement", "batch_size": 24, "max_new_tokens": 2, "of": COUNTS}
    options = {"max_drop": "60%", "range": (0.3, 0.6), "step": 0.3, "samples": 12}
    options["schedules"] = ["own"]
    both = tune(subject, task, strategy=["fastv", "lightkv"], **options)
    assert both.difference.mean_base == 1.0  # the uncompressed model agrees with itself
    assert {trial.strategy for trial in both.trials} == {"fastv", "lightkv"}
    assert both.difference.n == 12
    best = min(t.retention for t in both.trials if t.finished and t.verdict == "accepted")
    assert both.retention == best
    assert both.decision_confidence == pytest.approx(1 - 0.05 / 4)
    assert any("stay the same, not that they are right" in remark for remark in both.remarks)


def test_falling_back_to_agreement_is_said_at_once():
    labelled = build_task(COUNTS)
    agreement = build_task({"name": "agreement", "of": COUNTS})
    with pytest.warns(LightKVWarning, match="no answers, so tune fell back to agreement"):
        _about_truth(agreement, fell_back=True)
    assert "fell back" not in _about_truth(agreement, fell_back=False)[0]
    assert _about_truth(labelled, fell_back=False) == []


def test_a_gentler_schedule_goes_further(tuned, subject):
    own, _, _ = tuned
    found = tune(subject, COUNTS, max_drop="40%", range="0.2:0.7", step=0.1)
    assert found.retention < own.retention
    assert found.schedule.startswith("ratio 0.")
    assert found.name == f"lightkv ({found.schedule})"
    assert f"strategy: lightkv; schedule: {found.schedule}" in found.to_yaml()
    assert max(stage.ratio for stage in found.pipeline.schedule) < 0.5
    assert found.decision_confidence == pytest.approx(1 - 0.05 / (3 * 6))
    assert found.sweep == 3 * 6 * 24
    won = [t for t in found.trials if t.finished and t.verdict == "accepted"]
    assert (found.schedule, found.retention) in {(t.schedule, t.retention) for t in won}
    # The neighbour below was judged on all samples too, with the schedule that did best there.
    below = [t for t in found.trials if t.retention == pytest.approx(found.retention - 0.1)]
    assert any(t.finished for t in below)
    assert not any(t.verdict == "accepted" for t in below)


def test_nothing_is_written_where_nothing_is_shown(subject, tmp_path):
    out = tmp_path / "tuned.yaml"
    told = r"(more than is allowed|too few to show it): it may be up to .* more samples"
    with pytest.raises(NotShownError, match=told) as error:
        tune(subject, COUNTS, max_drop="30%", range="0.2:0.2", schedules=["own"], out=out)
    assert isinstance(error.value, LightKVError)
    assert list(tmp_path.iterdir()) == []


def test_too_few_pictures_are_refused_before_the_model_is_asked(subject):
    steps = []
    with pytest.raises(NotShownError, match=r"not even a loss of 0 .* about \d{3} pictures"):
        tune(subject, COUNTS, max_drop="1%", samples=12, progress=steps.append)
    assert steps == []


@pytest.mark.parametrize("pictures", [3, 20])
def test_little_data_are_told_before_a_model_is_loaded(monkeypatch, pictures):
    monkeypatch.setattr(Subject, "load", None)
    with pytest.raises(NotShownError, match=rf"of {pictures} pictures not even a loss of 0"):
        tune("demo", f"scenes:{pictures}", max_drop="2%")
    with pytest.raises(NotShownError, match="about 23 pictures or more"):  # not (3 + 1) / 0.3
        tune("demo", "scenes:3", max_drop="30%")
    task = {"name": "perplexity", "of": {"name": "scenes", "scenes": 3}}
    with pytest.raises(
        NotShownError, match=r"data = 3: log-probabilities have no limit.*20 pictures"
    ):
        tune("demo", task, max_drop=0.5)


def test_a_schedule_that_is_asked_for_must_reach_something(subject):
    with pytest.raises(ConfigError, match="schedule = 'ratio 7'"):
        tune(subject, COUNTS, max_drop="40%", schedules=["ratio: 7"])


def test_the_second_strategy_costs_no_result(subject, tmp_path):
    deep = tmp_path / "deep.yaml"
    parts = {"scorer": "last-token", "matcher": "top-k", "aggregator": "drop"}
    deep.write_text(json.dumps({**parts, "schedule": {"windows": [None], "after_layer": 1}}))
    options = {"schedules": ["own"], "range": "0.1:0.9", "step": 0.4, "max_drop": "99%"}
    found = tune(subject, COUNTS, strategy=f"{deep},fastv", **options)
    assert (found.strategy, found.retention) == (str(deep), 0.1)  # where fastv cannot follow
    assert any(remark.startswith("fastv: 1 retentions") for remark in found.remarks)


def test_the_budget_is_named_where_it_ended_the_search(subject):
    with pytest.raises(NotShownError, match=r"the budget allowed \(0.5\).*a larger budget"):
        tune(
            subject, COUNTS, max_drop="25%", schedules=["own"], range="0.2:0.8", step=0.3, budget=1
        )


def test_a_likelihood_is_tuned_in_its_own_unit(subject):
    task = {"name": "perplexity", "of": {**COUNTS, "scenes": 24}, "batch_size": 24}
    found = tune(subject, task, max_drop=0.9, range=(0.9, 0.9))
    assert not found.accuracy
    assert found.margin.low > -0.9
    assert found.points(-0.9) == "-0.9000"
    assert "log-probability" in found.to_yaml()


def test_a_full_disk_leaves_nothing_behind(tuned, tmp_path, monkeypatch):
    def full(path, text, **options):
        path.write_bytes(text[:10].encode())
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(ConfigError, match="No space left"):
        write(tuned[0], tmp_path / "tuned.yaml")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_someone_else_stays(tmp_path):
    out = tmp_path / "mine.yaml"
    out.write_text("matcher: bipartite\n")
    with pytest.raises(ConfigError, match="not overwritten"):
        tune("no such model", "scenes:5", out=out)
    assert out.read_text() == "matcher: bipartite\n"


def test_retentions_out_of_reach_are_left_out(subject):
    found = tune(subject, COUNTS, max_drop=0.9, range=(0.1, 0.5), step=0.2, samples=24)
    assert any("out of reach" in remark for remark in found.remarks)
    assert all(trial.retention >= 0.17 for trial in found.trials)
    with pytest.raises(ConfigError, match="reaches no retention"):
        tune(subject, COUNTS, max_drop=0.9, range=(0.01, 0.05), samples=24)
