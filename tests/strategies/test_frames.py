"""Methods for video: laws, slow references, and what clips and still pictures mean to them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from references_frames import REFERENCES, Clip, difference, evs, fastvid, holitom

from lightkv import Stage, VisionLayout
from lightkv.core.cells import cells_of
from lightkv.core.layout import Groups, SampleLayout, View
from lightkv.functional import compress_stage
from lightkv.strategies.components.frames import in_group, latest_before
from lightkv.strategies.components.windows import Windows
from lightkv.testing import StrategySuite, cases, check_strategy

PRESETS = ("evs", "dycoke", "framefusion", "fastvid", "holitom")


class TestEVS(StrategySuite):
    preset = "evs"
    stages = 2


class TestDyCoke(StrategySuite):
    preset = "dycoke"
    stages = 2


class TestFrameFusion(StrategySuite):
    preset = "framefusion"
    stages = 2


class TestFastVID(StrategySuite):
    preset = "fastvid"
    stages = 2


class TestHoliTom(StrategySuite):
    preset = "holitom"
    stages = 2


@pytest.mark.parametrize("name", REFERENCES)
def test_it_agrees_with_the_slow_reference(name):
    assert max(REFERENCES[name](seed) for seed in range(8)) <= 1e-5


CROSSED = {
    "evs compares with the frame before": ("evs", evs, {"scorer": "frame-contrast"}),
    "fastvid cuts": (
        "fastvid",
        fastvid,
        {"matcher": {"name": "segment-density", "segments": 1, "similarity": -1.0}},
    ),
    "fastvid holds centres back": ("fastvid", fastvid, {"aggregator": "drop"}),
    "holitom merges what is static": (
        "holitom",
        holitom,
        {"matcher": {"name": "static-segments", "similarity": 1.0}},
    ),
    "holitom weighs centres": (
        "holitom",
        holitom,
        {"aggregator": {"name": "weighted-mean", "weights": "uniform"}},
    ),
}


@pytest.mark.parametrize("name", CROSSED)
def test_another_variant_differs(name):
    preset, reference, roles = CROSSED[name]
    clips = [Clip(seed) for seed in range(6)]
    assert max(difference(clip, preset, reference(clip), **roles) for clip in clips) > 1e-3


# -- clips and still pictures ------------------------------------------------------------------


def clip_of(frame, frames, ratio, preset):
    """A preset on `frames` copies of a frame `[places, D]`."""
    places, width = frame.shape
    hidden = torch.cat([torch.ones(1, width), frame.repeat(frames, 1), torch.ones(2, width)])
    layout = VisionLayout.from_spans([[(1, (frames, 2, places // 2), "video")]])
    query = torch.linspace(-1, 1, hidden.shape[0] * 4).view(1, 1, -1, 4)
    stage = Stage.preset(preset, ratio=ratio)
    return compress_stage(hidden[None], layout, stage, query=query, key=query), stage


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("ratio", [0.3, 0.8])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_frames_that_are_all_alike(preset, ratio, frames):
    """The budget holds and nothing is NaN: of like frames, like tokens, and zeros."""
    torch.manual_seed(0)
    for frame in (torch.randn(6, 8), torch.ones(6, 8), torch.zeros(6, 8)):
        result, stage = clip_of(frame, frames, ratio, preset)
        assert result.layout.vision_counts == (stage.matcher.keep(6 * frames, ratio),)
        assert bool(torch.isfinite(result.hidden_states).all())
        assert result.score is None or bool(torch.isfinite(result.score).all())


@pytest.mark.parametrize("preset", ["framefusion", "holitom"])
def test_frames_that_are_alike_merge_over_time(preset):
    torch.manual_seed(0)
    frame = torch.randn(6, 8)
    result, _ = clip_of(frame, 5, 0.8, preset)
    assert result.size.tolist() == [5.0] * 6
    torch.testing.assert_close(result.hidden_states[0, 1:7], frame)


def test_evs_keeps_the_first_frame_and_what_changed():
    torch.manual_seed(0)
    hidden = torch.randn(6, 8).repeat(5, 1)
    hidden[3 * 6 + 2 :: 6] = torch.randn(8)
    hidden[4 * 6 + 5] = torch.randn(8)
    layout = VisionLayout.from_spans([[(0, (5, 2, 3), "video")]], length=31)
    hidden = torch.cat([hidden, torch.ones(1, 8)])[None]
    result = compress_stage(hidden, layout, Stage.preset("evs", ratio=22 / 30))
    assert result.assignment.survivor.tolist() == [*range(6), 3 * 6 + 2, 4 * 6 + 5]


def test_a_still_picture_is_ranked_by_contrast():
    """EVS and DyCoke have nothing to compare it with; its outlier survives any budget."""
    for preset in ("evs", "dycoke"):
        frame = torch.ones(6, 8)
        frame[4] = -1
        result, _ = clip_of(frame, 1, 0.8, preset)
        assert result.assignment.survivor.tolist() == [4]


def test_dycoke_shares_the_rest_among_frames():
    """Frames 0 and 4 are whole; 1, 2, 3, 5 and 6 have equal parts, and the clip ends where it ends."""
    torch.manual_seed(0)
    hidden = torch.randn(1, 7 * 6 + 1, 8)
    layout = VisionLayout.from_spans([[(0, (7, 2, 3), "video")]])
    kept = compress_stage(hidden, layout, Stage.preset("dycoke", ratio=20 / 42))
    frame = kept.assignment.survivor // 6
    assert torch.bincount(frame, minlength=7).tolist() == [6, 2, 2, 2, 6, 2, 2]


# -- who came before, where some are gone --------------------------------------------------------


def test_what_came_before():
    """Against loops, on tokens of two clips and a still picture of which some are gone."""
    views = [
        View.from_span(0, (5, 2, 2)),
        View.from_span(20, (1, 3, 2)),
        View.from_span(26, (9, 1, 2)),
    ]
    cells = cells_of([SampleLayout(tuple(views[:2])), SampleLayout(views=(views[2],))])
    left = torch.randperm(44, generator=torch.Generator().manual_seed(3))[:30].sort().values
    some = cells.at(left)
    known = list(zip(some.view.tolist(), some.place.tolist(), some.frame.tolist(), strict=True))
    for i, (view, place, frame) in enumerate(known):
        earlier = [j for j, k in enumerate(known) if k[:2] == (view, place) and k[2] < frame]
        assert latest_before(some)[i] == (earlier[-1] if earlier else -1)
        at = frame - frame % 4 + {0: 0, 1: 0, 2: 0, 3: 2}[frame % 4]
        pair = [j for j in earlier if known[j][2] == at and frame % 4]
        assert in_group(some, 4)[i] == (pair[0] if pair else -1)


@pytest.mark.parametrize("gone", [(), (1,)])
def test_neighbours_stay_in_their_row_frame_and_view(gone):
    """Two frames of 2 × 3 cells with a separator behind each row, a picture behind them, and in
    another row a picture of another width; some cells are missing."""
    first = (View.from_span(0, (2, 2, 3), newline=True), View.from_span(20, (1, 2, 1)))
    other = SampleLayout(views=(View.from_span(0, (1, 2, 2)),))
    cells = cells_of([SampleLayout(first), other])
    left = [i for i in range(22) if i not in gone]
    some = cells.at(torch.tensor(left))
    table = []
    for sample, count in ((SampleLayout(first), 18), (other, 4)):
        tokens = sample.tokens
        for i in range(count):
            at = (len(table) >= 18, int(tokens.view[i]), *map(int, tokens.coordinates[i]))
            table.append(None if tokens.separator[i] else at)
    known = {table[i]: n for n, i in enumerate(left) if table[i] is not None}
    for found, i in zip(some.neighbours().tolist(), left, strict=True):
        around = [-1] * 4
        if table[i] is not None:
            *where, row, column = table[i]
            beside = ((row, column - 1), (row, column + 1), (row - 1, column), (row + 1, column))
            around = [known.get((*where, *cell), -1) for cell in beside]
        assert found == around


ODD = [
    {"partitioner": {"name": "whole", "scope": "sample"}, "matcher": "frame-shares"},
    {"partitioner": "pseudo-square", "matcher": "static-segments", "aggregator": "centre-mean"},
    {"partitioner": {"name": "windows", "frames": 2}, "matcher": "segment-density"},
]


@pytest.mark.parametrize("roles", ODD, ids=lambda roles: roles["matcher"])
@settings(max_examples=10)
@given(data=st.data())
def test_windows_of_other_kinds(roles, data):
    """Over several views, with newlines among the tokens, and over a part of a clip."""
    windowed = roles["partitioner"] != ODD[0]["partitioner"]
    stages = 1 if windowed else 2
    case = data.draw(cases(windowed=windowed, max_ratio=0.9, stages=stages))
    schedule = [{"after_layer": 1, "ratio": 0.5, "windows": 1 if windowed else None}]
    check_strategy({"scorer": "frame-change", **roles, "schedule": schedule}, case)


def test_a_still_picture_beside_a_clip_widens_no_table():
    """Tables of a window are sized by what it holds, not by the largest frame and the longest clip."""
    layout = VisionLayout.from_spans([[(0, (16, 2, 2), "video"), (70, (1, 20, 20))]], length=480)
    plan = Stage.preset("fastvid", ratio=0.5).plan(layout)
    assert {bucket.extent for bucket in plan.buckets} == {(1, 16, 4), (1, 1, 400)}
    over = Stage.preset("evs", ratio=0.5, partitioner={"name": "whole", "scope": "sample"})
    assert {bucket.extent for bucket in over.plan(layout).buckets} >= {(1, 16, 4)}


# -- windows over time -----------------------------------------------------------------------------


@given(
    grid=st.tuples(st.integers(1, 11), st.integers(1, 6), st.integers(1, 6)),
    frames=st.integers(1, 5),
    space=st.integers(1, 3),
)
def test_windows_over_a_number_of_frames(grid, frames, space):
    sample = SampleLayout((View.from_span(3, grid, modality="video"),))
    groups = Groups.singletons(sample)
    found = Windows(frames=frames).partition(sample, groups, space)
    count = math.ceil(grid[0] / frames)
    wanted = Windows().partition(sample, groups, {"space": space, "time": count})
    assert np.array_equal(found.label, wanted.label)
    assert found.bands == wanted.bands
    for window in np.unique(found.label):
        shown = sample.tokens.coordinates[found.label == window, 0]
        assert shown.max() - shown.min() < frames


def test_what_the_stage_says_of_time_goes_before():
    sample = SampleLayout((View.from_span(0, (8, 2, 2), modality="video"),))
    part = Windows(frames=2).partition(sample, Groups.singletons(sample), {"space": 1, "time": 1})
    assert np.unique(part.label).size == 1


def test_later_stages_may_reach_over_more_frames():
    """The time axis of a preset: windows of 2 frames, then of 4, then of the whole clip."""
    over = [{"partitioner": {"name": "windows", "frames": n}} for n in (2, 4, 99)]
    layout = VisionLayout.from_spans([[(1, (9, 4, 4), "video")]], length=150)
    hidden = torch.randn(1, 150, 8)
    counts = []
    for space, roles in zip((2, 2, 1), over, strict=True):
        stage = Stage.preset("lightkv", windows=space, ratio=0.5, scorer="uniform", **roles)
        counts.append(len(stage.plan(layout).populations[0]))
        result = compress_stage(hidden, layout, stage)
        hidden, layout = result.hidden_states, result.layout
    assert counts == [5 * 4, 3 * 4, 1]
