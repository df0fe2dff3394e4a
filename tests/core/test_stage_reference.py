"""Stages against slow references, written window by window straight from the formulas."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightkv import Stage, View, VisionLayout
from lightkv.core.contracts import StageContext
from lightkv.core.layout import SampleLayout
from lightkv.functional import compress_stage
from lightkv.testing import Case, cases
from lightkv.testing.cases import SampleShape, attention

SCALE = 4**-0.5


def places_of(case, row):
    """Sequence positions of the vision tokens and of the prompt tokens of a row run alone."""
    layout = case.single(row)
    vision = layout.vision_mask()[0]
    return vision.nonzero().flatten().tolist(), (~vision).nonzero().flatten().tolist()


def prompt_guidance(hidden, prompt):
    """ξ of every position: softmax over all queries, summed over heads and prompt columns."""
    query, key = attention(hidden)
    xi = torch.zeros(hidden.shape[1])
    for head in range(query.shape[1]):
        logits = query[0, head] @ key[0, head // 2].T * SCALE
        for column in prompt:
            xi += torch.softmax(logits[:, column], dim=0)
    return xi


def cosine(a, b):
    return float(torch.dot(a, b) / (a.norm() * b.norm() + 1e-8))


def merge_window(tokens, weight, ratio):
    """Survivors of a window: {place: vector}; even places propose to odd ones."""
    count = len(tokens)
    merged = min(math.floor(ratio * count + 1e-9), count // 2)
    proposals = []
    for source in range(0, count, 2):
        best = [(cosine(tokens[source], tokens[d]), d) for d in range(1, count, 2)]
        if best:
            value = max(value for value, _ in best)
            proposals.append((value, source, next(d for v, d in best if v == value)))
    proposals.sort(key=lambda entry: (-entry[0], entry[1]))
    joined = {}
    for _, source, destination in proposals[:merged]:
        joined.setdefault(destination, []).append(source)
    gone = {source for group in joined.values() for source in group}
    out = {}
    for place in range(count):
        if place in gone:
            continue
        group = [place, *joined.get(place, [])]
        mass = sum(float(weight[i]) for i in group)
        share = [float(weight[i]) / mass if mass > 0 else 1 / len(group) for i in group]
        out[place] = sum(s * tokens[i] for s, i in zip(share, group, strict=True))
    return out


def bands(side, count):
    """Band of each coordinate; the first bands are one longer."""
    base, extra = divmod(side, count)
    return [band for band in range(count) for _ in range(base + (band < extra))]


def windows_of(case, row, space):
    """Lists of vision token numbers (in the row) of each spatial window.

    Separators are left out, and the last position of a prompt that ends in its image.
    """
    groups, number = {}, 0
    for image, (frames, rows, columns, newline) in enumerate(case.shapes[row].grids):
        vertical, horizontal = bands(rows, space), bands(columns, space)
        for frame in range(frames):
            for y in range(rows):
                for x in range(columns):
                    key = (image, frame, vertical[y], horizontal[x])
                    groups.setdefault(key, []).append(number)
                    number += 1
                number += newline
    return without_last(case, row, list(groups.values()))


def without_last(case, row, groups):
    """Groups of token numbers without the token that holds the last position of the row."""
    if not case.shapes[row].ends_in_image:
        return groups
    last = len(places_of(case, row)[0]) - 1
    return [[n for n in group if n != last] for group in groups]


def run(case, preset, windows, row, **overrides):
    stage = Stage.preset(preset, windows=windows, ratio=case.ratio, **overrides)
    hidden = case.hidden(row)
    query, key = attention(hidden)
    result = compress_stage(hidden, case.single(row), stage, query=query, key=key)
    return hidden, result


def apart(found, wanted):
    """Largest absolute difference; infinity if the shapes differ."""
    if found.shape != wanted.shape:
        return math.inf
    return float((found - wanted).abs().max()) if found.numel() else 0.0


def expected_sequence(hidden, vision, survivors):
    """Text and survivors in the order of their old positions; `survivors` maps number → vector."""
    rows = {p: hidden[0, p] for p in range(hidden.shape[1]) if p not in set(vision)}
    rows |= {vision[number]: vector for number, vector in survivors.items()}
    return torch.stack([rows[place] for place in sorted(rows)])


def lightkv_difference(case):
    """Largest difference between the preset and its reference: windows, guidance, means."""
    worst = 0.0
    space = case.windows[0]
    for row in range(len(case.shapes)):
        hidden, result = run(case, "lightkv", space, row)
        vision, prompt = places_of(case, row)
        xi = prompt_guidance(hidden, prompt)
        survivors = {n: hidden[0, place] for n, place in enumerate(vision)}
        for window in windows_of(case, row, space):
            tokens = [hidden[0, vision[n]] for n in window]
            weight = [xi[vision[n]] for n in window]
            merged = merge_window(tokens, weight, case.ratio)
            for place, number in enumerate(window):
                if place in merged:
                    survivors[number] = merged[place]
                else:
                    del survivors[number]
        wanted = expected_sequence(hidden, vision, survivors)
        worst = max(worst, apart(result.hidden_states[0], wanted))
    return worst


@given(case=cases(stages=1))
def test_lightkv(case):
    assert lightkv_difference(case) < 1e-5


def tome_difference(case):
    """Largest difference between the preset and its reference: one window, sizes of 1."""
    worst = 0.0
    for row in range(len(case.shapes)):
        hidden, result = run(case, "tome", None, row)
        vision, _ = places_of(case, row)
        survivors = {n: hidden[0, place] for n, place in enumerate(vision)}
        for window in views_of(case, row):
            tokens = [hidden[0, vision[n]] for n in window]
            merged = merge_window(tokens, [1.0] * len(window), case.ratio)
            for place, number in enumerate(window):
                if place in merged:
                    survivors[number] = merged[place]
                else:
                    del survivors[number]
        wanted = expected_sequence(hidden, vision, survivors)
        worst = max(worst, apart(result.hidden_states[0], wanted))
    return worst


@given(case=cases(stages=1, windowed=False))
def test_tome(case):
    assert tome_difference(case) < 1e-5


def views_of(case, row):
    """Vision token numbers of each image, separators and a last position left out."""
    out, number = [], 0
    for frames, rows, columns, newline in case.shapes[row].grids:
        tokens = []
        for _ in range(frames * rows):
            tokens += range(number, number + columns)
            number += columns + newline
        out.append(tokens)
    return without_last(case, row, out)


def last_row_importance(hidden):
    """Mean over heads of the last token's causal attention."""
    query, key = attention(hidden)
    rows = [
        torch.softmax(query[0, head, -1] @ key[0, head // 2].T * SCALE, dim=0)
        for head in range(query.shape[1])
    ]
    return torch.stack(rows).mean(0)


def fastv_difference(case):
    """Largest difference between the preset and its reference: the last row, ties to the lower index."""
    worst = 0.0
    for row in range(len(case.shapes)):
        hidden, result = run(case, "fastv", None, row)
        vision, _ = places_of(case, row)
        importance = last_row_importance(hidden)
        candidates = [n for view in views_of(case, row) for n in view]
        keep = round(round(len(candidates) * (1 - case.ratio), 6))
        ranked = sorted(candidates, key=lambda n: (-float(importance[vision[n]]), n))
        fixed = set(range(len(vision))) - set(candidates)
        survivors = {n: hidden[0, vision[n]] for n in fixed | set(ranked[:keep])}
        wanted = expected_sequence(hidden, vision, survivors)
        worst = max(worst, apart(result.hidden_states[0], wanted))
    return worst


@given(case=cases(stages=1, windowed=False, max_ratio=0.9))
def test_fastv(case):
    assert fastv_difference(case) == 0


def random_difference(case):
    """Largest difference between the preset and its reference: the tokens that stayed, as they were."""
    worst = 0.0
    for row in range(len(case.shapes)):
        hidden, result = run(case, "random", None, row)
        vision, _ = places_of(case, row)
        candidates = [n for view in views_of(case, row) for n in view]
        keep = math.ceil(round(len(candidates) * (1 - case.ratio), 6))
        assert result.layout.vision_counts[0] == keep + len(vision) - len(candidates)
        survivor = result.assignment.survivor.tolist()
        survivors = {n: hidden[0, vision[n]] for n in survivor}
        wanted = expected_sequence(hidden, vision, survivors)
        worst = max(worst, apart(result.hidden_states[0], wanted))
    return worst


@given(case=cases(stages=1, windowed=False, max_ratio=0.9))
def test_random(case):
    assert random_difference(case) == 0


@given(run_number=st.integers(0, 9), stage_number=st.integers(0, 3), seed=st.integers(0, 3))
def test_noise_is_a_prefix_that_depends_on_seed_run_and_stage(run_number, stage_number, seed):
    """The noise of a token follows from its rank alone, whatever else is in the batch."""
    stage = Stage.preset("random", scorer={"name": "noise", "seed": seed})

    def noise(grids, context):
        layout = VisionLayout.from_spans(grids, length=60)
        hidden = torch.randn(len(grids), 60, 4)
        return compress_stage(hidden, layout, stage, context=context).score

    context = StageContext(run=run_number, stage=stage_number)
    alone = noise([[(3, (1, 4, 5))]], context)
    batch = noise([[(0, (1, 7, 7))], [(9, (1, 4, 5))], []], context)
    assert torch.equal(batch[:20], alone)
    assert torch.equal(batch[49:], alone)
    for other in (
        StageContext(run=run_number + 1, stage=stage_number),
        StageContext(run=run_number, stage=stage_number + 1),
    ):
        assert not torch.equal(noise([[(3, (1, 4, 5))]], other), alone)


def test_single_precision_ratio_is_the_released_arithmetic():
    """0.35 · 180 is 63 in float32 and 62 in double precision."""
    double = Stage.preset("lightkv", ratio=0.35).matcher
    single = Stage.preset("lightkv-release", ratio=0.35).matcher
    assert (180 - single.keep(180, 0.35), 180 - double.keep(180, 0.35)) == (63, 63)
    assert int(np.float32(0.35) * np.float32(180)) == 63
    assert int(0.35 * 180) == 62


@pytest.mark.parametrize(("population", "keep"), [(7, 4), (8, 4), (1, 1), (0, 0)])
def test_odd_windows_keep_the_larger_half(population, keep):
    assert Stage.preset("lightkv", ratio=0.5).matcher.keep(population, 0.5) == keep


def test_windows_across_tiles_are_worked_on_in_raster_order():
    """Two 2 × 2 tiles side by side, tile by tile in the sequence: one 2 × 4 picture."""
    cells = np.array([0, 1, 4, 5, 2, 3, 6, 7])
    view = View((1, 2, 4), np.arange(8), cells)
    tiled = VisionLayout(8, (SampleLayout((view,)),))
    plain = VisionLayout.from_spans([[(0, (1, 2, 4))]], length=8)
    hidden = torch.randn(1, 8, 16, generator=torch.Generator().manual_seed(0))
    stage = Stage.preset("tome", ratio=0.5)
    raster = compress_stage(hidden, plain, stage)
    mixed = compress_stage(hidden[:, cells], tiled, stage)
    survivors = torch.from_numpy(cells)[mixed.assignment.survivor]
    order = survivors.argsort()
    assert survivors[order].tolist() == raster.assignment.survivor.tolist()
    torch.testing.assert_close(mixed.hidden_states[0, order], raster.hidden_states[0])


def example(seed, window=None):
    """A prompt with a square picture and a strip, for a figure."""
    shape = SampleShape((3, 2, 5), ((1, 6, 6, False), (1, 4, 8, True)))
    return Case((shape,), (window,), 0.5, seed)


REFERENCES = {
    "lightkv": lambda seed: lightkv_difference(example(seed, 2)),
    "tome": lambda seed: tome_difference(example(seed)),
    "fastv": lambda seed: fastv_difference(example(seed)),
    "random": lambda seed: random_difference(example(seed)),
}
"""Preset → largest difference from its reference for a seed (benchmarks/strategy_table.py)."""
