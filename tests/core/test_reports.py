"""What a session keeps of its runs, and the one warning of a retention that was not met."""

import copy
import gc
import pickle
import threading
import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_llama

import lightkv
from lightkv import LightKVWarning, Pipeline, VisionLayout
from lightkv.core.cost.flops import DecoderShape
from lightkv.core.errors import ConfigError
from lightkv.core.run.engine import Engine
from lightkv.core.run.report import LEAST_SHIFT, MOST_GAP, gap_text
from lightkv.core.run.reports import KEPT, TRACED, Reports

LAYERS = 6


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


def layout_of(*grids):
    """Rows of one picture each, or of none, after two tokens of text."""
    return VisionLayout.from_spans([[(2, grid)] if grid else [] for grid in grids])


def ask(model, length, rows=1):
    ids = torch.arange(7, 7 + length).remainder(190).add(3).expand(rows, -1)
    with torch.no_grad():
        model(input_ids=ids, use_cache=True)


def session(model, *grids, preset="tome", **options):
    return lightkv.compress(model, preset, adapter="generic", layout=layout_of(*grids), **options)


# -- retention, asked and achieved --------------------------------------------------------------


def test_a_report_tells_what_was_asked_and_what_was_reached(model):
    with session(model, (1, 12, 12), retention=0.6) as run:
        ask(model, 150)
    report = run.last
    assert report.asked_retention == 0.6
    assert report.to_dict()["asked_retention"] == 0.6
    assert report.to_dict()["retention"] == report.retention
    assert report.planned_retention == pytest.approx(0.6, abs=0.005)
    text = f"retention {report.retention:.3f} (asked 0.600, planned {report.planned_retention:.3f})"
    assert text in " ".join(str(report).split())
    stages = [{"after_layer": 2, "ratio": 0.5}]
    with session(model, (1, 12, 12), schedule=stages) as run:
        ask(model, 150)
    assert run.last.asked_retention is None
    assert "asked" not in str(run.last)


@given(achieved=st.floats(0, 1), planned=st.floats(0, 1), asked=st.none() | st.floats(0, 1))
def test_a_gap_is_said_from_five_points_on(achieved, planned, asked):
    text = gap_text(achieved, planned, asked)
    wanted = planned if asked is None else asked
    assert (text is not None) == (abs(achieved - wanted) > MOST_GAP)
    if text is not None:
        assert f"retention {achieved:.3f} where {wanted:.3f} was" in text
        assert ("planned" if asked is None else "asked for") in text
        assert ("rounded down" in text) == (achieved < wanted)


@given(achieved=st.floats(0, 1), planned=st.floats(0, 1))
def test_a_smaller_gap_is_told_beside_the_figure(achieved, planned):
    text = gap_text(achieved, planned, None, LEAST_SHIFT)
    assert (text is not None) == (abs(achieved - planned) > LEAST_SHIFT)


def test_whole_tokens_are_why(model):
    """Windows of nine tokens leave five, not four and a half."""
    stages = [{"after_layer": 2, "ratio": 0.5, "windows": 4}]
    with session(model, (1, 12, 12), preset="lightkv", schedule=stages) as run:
        ask(model, 150)
    report = run.last
    assert report.gap is None
    assert LEAST_SHIFT < report.retention - report.planned_retention < MOST_GAP
    assert "only whole ones are removed" in report.shift
    with session(model, (1, 2, 2), preset="lightkv", retention=0.6, gap_warning=False) as run:
        ask(model, 8)
    assert run.last.gap is not None
    assert run.last.shift is None


def warned(record):
    return [str(each.message) for each in record if each.category is LightKVWarning]


def test_small_pictures_are_warned_of_once_in_a_session(model):
    with session(model, (1, 2, 2), preset="lightkv", retention=0.6) as run:
        with pytest.warns(
            LightKVWarning, match=r"lightkv: retention 1\.000 where 0\.600 was asked"
        ):
            ask(model, 8)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ask(model, 8)
            ask(model, 8)
        assert run.last.gap is not None
    with session(model, (1, 2, 2), preset="lightkv", retention=0.6), pytest.warns(LightKVWarning):
        ask(model, 8)  # another session says so again


def test_given_stages_are_held_to_what_they_plan(model):
    stages = [{"after_layer": 2, "ratio": 0.5}]
    with (
        session(model, (1, 1, 1), schedule=stages),
        pytest.warns(LightKVWarning, match=r"1\.000 where 0\.667 was planned"),
    ):
        ask(model, 5)
    drop = [{"after_layer": 2, "ratio": 0.9}]
    with (
        session(
            model,
            (1, 1, 1),
            preset="fastv",
            schedule=drop,
            matcher={"name": "top-k", "rounding": "floor"},
        ),
        pytest.warns(LightKVWarning, match=r"0\.333 where 0\.400 was planned.*rounded down"),
    ):
        ask(model, 5)


@pytest.mark.parametrize(
    ("grids", "options"),
    [
        (((1, 12, 12),), {}),
        ((None,), {}),
        ((None, None), {"preset": "lightkv"}),
        (((1, 2, 2),), {"preset": "lightkv", "gap_warning": False}),
        (((1, 12, 12), None), {}),
    ],
)
def test_nothing_is_said_where_nothing_is_amiss(model, grids, options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with session(model, *grids, **options):
            ask(model, 150, rows=len(grids))


@pytest.mark.parametrize("preset", ["elastic-cache", "rand"])
def test_a_share_of_all_entries_is_not_compared_with_one_of_vision(model, preset):
    """Text that stays or goes with the pictures makes the two differ, and nothing is amiss."""
    with (
        warnings.catch_warnings(),
        session(model, (1, 4, 4), preset=preset, retention=0.5) as run,
    ):
        warnings.simplefilter("error")
        ask(model, 60)
    report = run.last
    assert report.counts_text
    assert report.gap is None
    sample = report.samples[0]
    entries = sum(sample.kv_bytes) / (sample.vision_kv_bytes / sum(sample.vision_tokens))
    assert entries / (LAYERS * 60) == pytest.approx(0.5, abs=MOST_GAP)
    if abs(report.retention - 0.5) > MOST_GAP:
        assert replace(report, counts_text=False).gap is not None


def test_the_warning_points_at_the_call_of_the_model(model):
    with (
        session(model, (1, 2, 2), preset="lightkv", retention=0.6),
        pytest.warns(LightKVWarning) as record,
    ):
        ask(model, 8)
    assert [each.filename for each in record if each.category is LightKVWarning] == [__file__]


# -- how many reports stay ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "runs", "kept"),
    [
        ({}, KEPT + 5, KEPT),
        ({"trace": True}, TRACED + 5, TRACED),
        ({"keep_reports": 3}, 8, 3),
        ({"keep_reports": 3, "trace": True}, 8, 3),
        ({"keep_reports": "all"}, KEPT + 5, KEPT + 5),
        ({"keep_reports": "all", "trace": True}, TRACED + 5, TRACED + 5),
    ],
)
def test_the_latest_reports_stay(model, options, runs, kept):
    with session(model, (1, 2, 2), gap_warning=False, **options) as run:
        assert "0 runs)" in repr(run)
        for number in range(runs):
            ask(model, 8)
            assert run.last.run == number
    assert run.runs == runs
    assert [report.run for report in run.reports] == list(range(runs - kept, runs))
    said = f"{runs} runs, reports of the last {kept} kept)" if kept < runs else f"{runs} runs)"
    assert said in repr(run)


@pytest.mark.parametrize("keep", [0, -1, True, 2.5, "5", "some", [3], float("nan"), 10**30])
def test_no_number_of_reports(model, keep):
    with pytest.raises(ConfigError, match="keep_reports"):
        session(model, (1, 2, 2), keep_reports=keep).__enter__()
    with session(model, (1, 2, 2)):
        pass


def test_memory_of_many_requests_is_flat():
    """Fifty shapes again and again: as many objects after 450 requests as after 150."""
    shape = DecoderShape(LAYERS, 8, 2, 1, 4, 12, 50, bytes_per_value=4)
    engine = Engine(Pipeline.build("tome", LAYERS), shape)
    hidden = torch.randn(1, 80, 8)
    layouts = [[(2, (1, 1 + n // 10, 1 + n % 10))] for n in range(50)]

    def requests(count):
        for number in range(count):
            layout = VisionLayout.from_spans([layouts[number % 50]], length=80)
            prefill, rows = engine.begin(layout), hidden
            for layer in range(LAYERS):
                rows = prefill.apply(layer, rows)
            engine.finish(prefill, cached=True)
        gc.collect()
        return len(gc.get_objects())

    early = requests(150)
    late = requests(300)
    assert engine.reports.total == 450
    assert len(engine.reports) == KEPT
    assert late - early < 300  # what is kept of a request is more than one object


def test_reports_are_read_while_others_come():
    class Report:
        gap = None

    reports, stop = Reports(50), threading.Event()

    def add():
        while not stop.is_set():
            reports.add(Report())

    adders = [threading.Thread(target=add) for _ in range(2)]
    for thread in adders:
        thread.start()
    try:
        for _ in range(300):
            assert len(list(reports)) <= 50
    finally:
        stop.set()
        for thread in adders:
            thread.join()
    assert reports[-1] is list(reports)[-1]
    assert len(reports[-3:]) == 3


def test_reports_can_be_copied():
    reports = Reports(2)
    assert len(copy.deepcopy(reports)) == len(pickle.loads(pickle.dumps(reports))) == 0
