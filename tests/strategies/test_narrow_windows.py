"""Pictures of fewer rows, columns or frames than windows: fewer windows, never an error."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightkv import Pipeline, Stage, VisionLayout
from lightkv.core.cost.counting import ViewSize, count_savings, prompt_layout
from lightkv.core.cost.flops import DecoderShape
from lightkv.core.errors import ConfigError
from lightkv.core.layout import SampleLayout, View
from lightkv.core.plugins import registry
from lightkv.core.run.engine import Engine

LAYERS = 8
SHAPE = DecoderShape(
    num_layers=LAYERS,
    hidden_size=8,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    intermediate_size=12,
    vocab_size=50,
    bytes_per_value=4,
)
PRESETS = sorted(registry().presets)
grids = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))
WINDOWED = {
    "lightkv": {"scorer": "uniform"},
    "lightkv-plus": {"scorer": "uniform"},
    "lightkv-release": {"scorer": "uniform"},
    "bounded": {"scorer": "uniform", "partitioner": {"name": "windows", "population": 2}},
    "time": {
        "scorer": "uniform",
        "schedule": {"windows": [{"space": 4, "time": 4}, {"space": 2, "time": 2}]},
    },
}


def built(name):
    preset = name if name.startswith("lightkv") else "lightkv"
    return Pipeline.build(preset, LAYERS, **WINDOWED[name])


def labels(layout, windows, stage, **partitioner):
    """Window of each token, and the layout after the stage."""
    made = Stage.preset("tome", windows=windows, partitioner={"name": "windows", **partitioner})
    plan = made.plan(layout)
    after = layout.evolved(
        plan.length, plan.groups, plan.pads, layout.token_index(torch.device("cpu"))
    )
    return plan.window.numpy(), after


@given(views=st.lists(st.tuples(grids, st.booleans()), min_size=1, max_size=3))
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_takes_every_picture(name, views):
    pipeline = Pipeline.build(name, 12)
    layout = prompt_layout([ViewSize(grid, newline) for grid, newline in views], text_tokens=3)
    shape = DecoderShape(**{**vars(SHAPE), "num_layers": 12})
    savings = count_savings(pipeline, shape, layout, new_tokens=1)
    kept = savings.compressed.vision_tokens
    assert all(later <= earlier for earlier, later in itertools.pairwise(kept))
    assert 0.0 <= savings.retention <= 1.0
    if name.startswith("lightkv"):
        assert kept[-1] >= len(views)  # no picture vanishes


@given(grid=grids, first=st.integers(1, 9), later=st.integers(1, 9), time=st.booleans())
def test_windows_are_as_many_as_there_are_and_nested(grid, first, later, time):
    layout = VisionLayout.from_spans([[(1, grid)]], length=int(np.prod(grid)) + 2)
    cells = layout.samples[0].tokens.coordinates
    before = None
    for windows in (max(first, later), min(first, later)):
        entry = {"space": windows, "time": windows} if time else windows
        label, layout = labels(layout, entry, 0)
        sides = [min(windows, side) for side in grid]
        sides[0] = sides[0] if time else grid[0]
        assert np.unique(label).size == np.prod(sides)
        # A window is a product of runs of rows, of columns and of frames, as even as can be where
        # nothing was cut before.
        for axis, count in enumerate(sides):
            bands = {}
            for place, window in zip(cells[:, axis], label, strict=True):
                bands.setdefault(int(place), set()).add(int(window))
            runs = [bands[place] for place in range(grid[axis])]
            assert 1 + sum(a != b for a, b in itertools.pairwise(runs)) == count
        if before is not None:
            owner = {}
            for small, large in zip(before, label, strict=True):
                assert owner.setdefault(int(small), int(large)) == large
        before = label


@given(grid=grids, windows=st.integers(1, 9))
def test_a_grid_that_is_wide_enough_is_cut_as_before(grid, windows):
    layout = VisionLayout.from_spans([[(0, grid)]], length=int(np.prod(grid)) + 1)
    lenient = labels(layout, windows, 0)[0]
    if windows <= min(grid[1:]):
        assert (labels(layout, windows, 0, clamp=False)[0] == lenient).all()
    else:
        with pytest.raises(ConfigError, match="windows per side do not fit view 0"):
            labels(layout, windows, 0, clamp=False)
    assert (labels(layout, windows, 0, clamp=True)[0] == lenient).all()


def ran(pipeline, layout, hidden):
    """What is left of `[B, N, D]`, and the report, of a prefill through layers that do nothing."""
    engine = Engine(pipeline, SHAPE)
    prefill = engine.begin(layout)
    for layer in range(LAYERS):
        hidden = prefill.apply(layer, hidden)
    return hidden, prefill.layout, engine.finish(prefill, cached=True)


@given(rows=st.lists(grids, min_size=1, max_size=3), seed=st.integers(0, 99))
@pytest.mark.parametrize("name", WINDOWED)
def test_a_batch_is_its_rows_and_runs_are_what_is_counted(name, rows, seed):
    pipeline, generator = built(name), torch.Generator().manual_seed(seed)
    sizes = [int(np.prod(grid)) + 3 for grid in rows]
    length, batch, samples, alone = max(sizes), [], [], []
    for grid, size in zip(rows, sizes, strict=True):
        row = torch.randn(1, size, 8, generator=generator)
        layout = VisionLayout.from_spans([[(2, grid)]], length=size)
        found, _, report = ran(pipeline, layout, row)
        alone.append((found, report.samples[0]))
        counted = count_savings(pipeline, SHAPE, layout, new_tokens=1)
        assert report.samples[0].vision_tokens == counted.compressed.vision_tokens
        assert report.retention == pytest.approx(counted.retention)
        batch.append(torch.cat([row.new_zeros(1, length - size, 8), row], dim=1))
        view = View.from_span(length - size + 2, grid)
        samples.append(SampleLayout((view,), length - size))
    together, layout, report = ran(pipeline, VisionLayout(length, tuple(samples)), torch.cat(batch))
    for number, (found, sample) in enumerate(alone):
        assert report.samples[number] == sample
        torch.testing.assert_close(together[number, layout.pads[number] :], found[0])


@pytest.mark.parametrize("name", WINDOWED)
def test_a_picture_of_one_token_keeps_it(name):
    layout = VisionLayout.from_spans([[(1, (1, 1, 1))]], length=4)
    hidden = torch.randn(1, 4, 8)
    found, _, report = ran(built(name), layout, hidden)
    assert torch.equal(found, hidden)
    assert report.retention == 1.0
