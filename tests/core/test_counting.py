"""Sizes of views, and what is a matrix product among the FLOPs of a stage."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lightkv.core.cost.counting import ViewSize, count_savings, prompt_layout
from lightkv.core.cost.flops import DecoderShape
from lightkv.core.layout import SEPARATOR
from lightkv.core.needs import Need
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.core.sizes import StageSizes

SHAPE = DecoderShape(
    num_layers=6,
    hidden_size=8,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    intermediate_size=12,
    vocab_size=50,
)
STAGE = [{"after_layer": 2, "windows": 1, "ratio": 0.5}]
sides = st.integers(1, 6)


@given(rows=sides, columns=sides, leading=st.integers(0, 3), newline=st.booleans())
def test_views_with_class_tokens(rows, columns, leading, newline):
    size = ViewSize((1, rows, columns), newline, leading=leading)
    view = size.view(5)
    assert view.positions.tolist() == list(range(5, 5 + size.tokens))
    assert view.cells.size == size.tokens == leading + rows * (columns + newline)
    assert (view.cells[:leading] == SEPARATOR).all()
    shown = view.cells[view.cells != SEPARATOR]
    assert shown.tolist() == list(range(rows * columns))
    assert ("class" in str(size)) == bool(leading)


@given(count=st.integers(1, 40), leading=st.integers(0, 2))
def test_short_rasters_keep_their_class_tokens(count, leading):
    plain = ViewSize.of_count(count)
    size = ViewSize(plain.grid, cells=count, leading=leading)
    view = size.view(0)
    assert size.tokens == view.cells.size == count + leading
    assert view.cells[leading:].tolist() == list(range(count))


@given(side=st.integers(2, 8), text=st.integers(1, 9), leading=st.integers(0, 2))
def test_class_tokens_are_kept_and_counted(side, text, leading):
    layout = prompt_layout([ViewSize((1, side, side), leading=leading)], text)
    pipeline = Pipeline.build("lightkv", 6, schedule=STAGE)
    found = count_savings(pipeline, SHAPE, layout)
    vision = side * side
    assert found.separators == leading
    assert found.vanilla.vision_tokens == (vision + leading,) * 6
    kept = vision - vision // 2 + leading
    assert found.compressed.vision_tokens == (vision + leading,) * 2 + (kept,) * 4


@given(side=st.integers(2, 8), text=st.integers(1, 9))
def test_products_leave_out_softmax_and_merging(side, text):
    vision = side * side
    layout = prompt_layout([ViewSize((1, side, side))], text)
    pipeline = Pipeline.build("lightkv", 6, schedule=STAGE)
    found = count_savings(pipeline, SHAPE, layout)
    length, half = vision + text, vision // 2
    products = SHAPE.num_heads * length * text * 2 * SHAPE.head_dim
    heads, width = SHAPE.num_heads, SHAPE.hidden_size
    sizes = StageSizes(vision, text, (vision,), width, heads, SHAPE.head_dim)
    assert sizes.attention(frozenset({Need.PROMPT_LOGITS})).products == products
    products += 2 * SHAPE.hidden_size * half * (vision - half)
    cost = found.compressed
    assert cost.compression_products == products
    softmax = 5 * SHAPE.num_heads * length * text
    merging = sizes.weighted_sum().total
    assert cost.compression_flops == products + softmax + merging
    assert found.vanilla.compression_products == found.vanilla.compression_flops == 0
    assert found.to_dict()["compressed"]["compression_products"] == products
