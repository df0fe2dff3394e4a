"""What a run reports, against counting by hand."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightkv import Pipeline, VisionLayout
from lightkv.core.cost.counting import count_savings
from lightkv.core.cost.flops import DecoderShape
from lightkv.core.errors import NumericError, SessionError
from lightkv.core.run.engine import Engine
from lightkv.core.sizes import Flops
from lightkv.strategies.components.bipartite import Bipartite
from lightkv.strategies.components.windows import Whole

SHAPE = DecoderShape(
    num_layers=6,
    hidden_size=8,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    intermediate_size=12,
    vocab_size=50,
    bytes_per_value=4,
)
SCHEDULE = [{"after_layer": 2, "ratio": 0.5}, {"after_layer": 4, "ratio": 0.5}]


def run(layout, *, preset="tome", dtype=torch.float32, **options):
    """A prefill through the engine with empty layers."""
    engine = Engine(Pipeline.build(preset, 6, schedule=SCHEDULE), SHAPE, **options)
    hidden = torch.randn(layout.batch_size, layout.length, 8).to(dtype)
    prefill = engine.begin(layout)
    for layer in range(6):
        hidden = prefill.apply(layer, hidden)
    return engine.finish(prefill, cached=True), hidden


LAYOUT = VisionLayout.from_spans(
    [[(2, (1, 4, 4))], [(5, (1, 2, 4)), (13, (1, 2, 4))], []], length=24
)
SINGLE = VisionLayout.from_spans([[(0, (1, 4, 4))]], length=24)


def test_counts_bytes_and_retention_by_hand():
    report, hidden = run(LAYOUT)
    first, second, third = report.samples
    assert first.vision_tokens == second.vision_tokens == (16, 16, 8, 8, 4, 4)
    assert third.vision_tokens == (0,) * 6
    assert (first.text_tokens, third.text_tokens) == (8, 24)
    assert first.retention == pytest.approx((2 + 2 * 0.5 + 2 * 0.25) / 6)
    assert third.retention == 1.0
    assert report.retention == first.retention
    assert report.planned_retention == pytest.approx(first.retention)
    per_token = 2 * 1 * 4 * 4
    assert first.kv_bytes == tuple((8 + n) * per_token for n in first.vision_tokens)
    assert first.vision_kv_bytes == sum(first.vision_tokens) * per_token
    # The third row has no vision tokens, so it sets the physical length of every layer.
    assert report.cache_bytes == (3 * 24 * per_token,) * 6
    assert hidden.shape == (3, 24, 8)


def test_flops_by_hand():
    report, _ = run(LAYOUT)
    sample = report.samples[0]
    parameters = 8 * 4 * (2 * 2 + 2 * 1) + 3 * 8 * 12
    assert SHAPE.layer_parameters == parameters

    def layer(tokens):
        return 2 * parameters * tokens + 4 * 2 * 4 * tokens * tokens

    head = 2 * 8 * 50
    assert sample.flops_vanilla == 6 * layer(24) + head
    assert sample.flops == sum(layer(8 + n) for n in sample.vision_tokens) + head
    assert 0 < sample.compression_flops < sample.flops_vanilla - sample.flops
    assert report.samples[2].flops == report.samples[2].flops_vanilla
    assert report.samples[2].compression_flops == 0
    assert report.flops == sum(s.flops + s.compression_flops for s in report.samples)


def test_export_and_table():
    report, _ = run(LAYOUT)
    data = report.to_dict()
    assert json.loads(report.to_json()) == data
    assert data["samples"][1]["vision_tokens"] == [16, 16, 8, 8, 4, 4]
    assert data["retention"] == report.retention
    text = str(report)
    for part in ("tome, run 0", "retention 0.583", "0–1", "2–3", "4–5", f"{24 * 32:,}"):
        assert part in text
    assert report.table().row_count == 3 + 3 + 1


def test_provenance_is_kept_only_when_asked_for():
    report, _ = run(LAYOUT)
    with pytest.raises(SessionError, match="trace=True"):
        report.provenance()
    report, _ = run(LAYOUT, trace=True)
    provenance = report.provenance()
    assert provenance.token_counts == (16, 16, 0)
    assert provenance.slot_counts == (4, 4, 0)
    assert float(provenance.group_sizes().sum()) == 32
    assert report.layout.original_counts == report.layout.vision_counts == (16, 16, 0)
    assert len(report.after_layers) == len(report.trace) == len(report.scores) == 2
    assert report.after_layers == (2, 4)
    empty, _ = run(VisionLayout.from_spans([[]], length=3), trace=True)
    assert empty.provenance().slot.numel() == 0


def test_a_stage_can_be_made_to_stop_at_nan():
    engine = Engine(Pipeline.build("tome", 6, schedule=SCHEDULE), SHAPE, check_finite=True)
    hidden = torch.randn(3, 24, 8)
    hidden[0, 3, 2] = float("nan")
    prefill = engine.begin(LAYOUT)
    with pytest.raises(NumericError, match="hidden_states"):
        prefill.apply(2, hidden)


def test_a_served_request_is_partitioned_once_a_stage(monkeypatch):
    asked, partition = [], Whole.partition
    monkeypatch.setattr(
        Whole, "partition", lambda self, *args: asked.append(1) or partition(self, *args)
    )
    schedule = [*SCHEDULE, {"site": "cache", "ratio": 0.7}]
    engine = Engine(Pipeline.build("tome", 6, schedule=schedule), SHAPE)
    built = len(asked)
    assert built > 0
    for turn in range(2):
        hidden, key = torch.randn(3, 24, 8), torch.randn(3, 1, 24, 4)
        prefill = engine.begin(VisionLayout(LAYOUT.length, LAYOUT.samples))
        for layer in range(6):
            hidden = prefill.apply(layer, hidden)
            length = hidden.shape[1]
            prefill.compress_cache(layer, key[:, :, :length], key[:, :, :length])
        report = engine.finish(prefill, cached=True)
        assert all(sample.compression_flops > 0 for sample in report.samples[:2])
        if turn == 0:
            # Two rows with pictures and one without, in two stages, and in two rounds of the cache
            # of what came before, between and after them.
            assert len(asked) - built == 3 * (2 + 3 * 2)
            built = len(asked)
    assert len(asked) == built


def test_components_tell_what_they_cost(monkeypatch):
    plain, _ = run(LAYOUT)
    saved = count_savings(Pipeline.build("tome", 6, schedule=SCHEDULE), SHAPE, SINGLE)
    seen = []
    mine = Flops(products=7, other=5)
    monkeypatch.setattr(Bipartite, "flops", lambda self, sizes: seen.append(sizes) or mine)
    told, _ = run(LAYOUT)
    for row in range(2):
        before, after = plain.samples[row], told.samples[row]
        matching = [sizes.similarities().products for sizes in seen[2 * row : 2 * row + 2]]
        assert before.compression_flops - after.compression_flops == sum(matching) - 2 * 12
        assert before.flops == after.flops
    assert [(sizes.vision, sizes.text, sizes.windows) for sizes in seen] == [
        (16, 8, (16,)),
        (8, 8, (8,)),
        (16, 8, (8, 8)),
        (8, 8, (4, 4)),
    ]
    again = count_savings(Pipeline.build("tome", 6, schedule=SCHEDULE), SHAPE, SINGLE)
    assert again.compressed.compression_products == 2 * 7
    assert saved.compressed.compression_products > 2 * 7


def test_a_stage_on_the_cache_whose_matcher_needs_importances_is_counted():
    pipeline = Pipeline.build("pitome", 6, schedule=[{"site": "cache", "ratio": 0.8}])
    assert len(pipeline.on_cache.rounds) == 3
    assert count_savings(pipeline, SHAPE, SINGLE).compressed.compression_flops > 0


def test_plans_are_made_once_for_equal_layouts():
    engine = Engine(Pipeline.build("tome", 6, schedule=SCHEDULE), SHAPE)
    other = VisionLayout(LAYOUT.length, LAYOUT.samples)
    first, cpu = engine.pipeline.stages[0], torch.device("cpu")
    assert engine.plan(first, LAYOUT, cpu) is engine.plan(first, other, cpu)


@given(text=st.integers(1, 9), side=st.integers(1, 6), preset=st.sampled_from(["tome", "random"]))
def test_the_meta_device_counts_like_the_real_one(text, side, preset):
    layout = VisionLayout.from_spans([[(0, (1, side, side))]], length=side * side + text)
    real, _ = run(layout, preset=preset)
    engine = Engine(Pipeline.build(preset, 6, schedule=SCHEDULE), SHAPE)
    prefill, hidden = engine.begin(layout), torch.empty(1, layout.length, 8, device="meta")
    for layer in range(6):
        hidden = prefill.apply(layer, hidden)
    ghost = engine.finish(prefill, cached=True)
    assert ghost.samples == real.samples
    assert ghost.cache_bytes == real.cache_bytes
