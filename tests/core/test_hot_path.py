"""What makes a stage cheap: index work once for each layout, bounded memory, nothing from the host."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import lightkv.core.attention as attention_module
from lightkv import Stage, VisionLayout
from lightkv.core.attention import QueryKeyView
from lightkv.core.cost.flops import DecoderShape
from lightkv.core.needs import Need
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.core.prompt import PromptIndex, prompt_index
from lightkv.core.run.engine import LAYOUT_CACHE, Engine
from lightkv.core.stage.stage import Readings
from lightkv.core.stage.step import run_stage
from lightkv.lab.live_bytes import LiveBytes

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import dense
import stage as benchmark
import stage_case

SHAPE = DecoderShape(
    num_layers=6,
    hidden_size=16,
    num_heads=2,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=8,
    vocab_size=8,
    bytes_per_value=4,
)
CPU = torch.device("cpu")


def layout():
    """Two rows with several images and padding, made anew each time as an adapter does."""
    spans = [[(2, (1, 8, 8)), (70, (1, 4, 8))], [(9, (1, 8, 8))]]
    return VisionLayout.from_spans(spans, length=110, pads=[0, 5])


def engine_of(preset):
    windows = {"windows": 2} if "lightkv" in preset else {}
    entries = [{"after_layer": layer, "ratio": 0.5, **windows} for layer in (1, 2, 3)]
    if preset == "dart":
        entries = entries[:1]
    return Engine(Pipeline.build(preset, 6, schedule=entries, positions="renumber"), SHAPE)


def prefill(engine, hidden):
    """One pass through the engine, with the attention of each layer before a stage."""
    run = engine.begin(layout())
    run.positions = torch.arange(hidden.shape[1]).expand(1, 2, -1)
    run.read_embeddings(hidden)
    for layer in (1, 2, 3):
        heads = hidden.unflatten(-1, (2, 8)).transpose(1, 2)
        if run.needs(layer) - {Need.EMBEDDINGS}:
            prompt = prompt_index(run.layout, hidden.device)
            run.read_attention(layer, QueryKeyView(heads, heads, 0.3, prompt))
        hidden = run.apply(layer, hidden)
    return run, hidden


PRESETS = ["lightkv", "lightkv-plus", "lightkv-release", "fastv", "tome", "pitome", "tofu", "dart"]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_later_prefill_makes_no_tensor_from_host_data(preset, monkeypatch):
    """Such a tensor is a copy to the device, and from pageable memory the host waits for it."""
    engine, hidden = engine_of(preset), torch.randn(2, 110, 16)
    first, wanted = prefill(engine, hidden)

    def refuse(*_, **__):
        raise AssertionError("a tensor was made from host data")

    for name in ("tensor", "from_numpy", "as_tensor"):
        monkeypatch.setattr(torch, name, refuse)
    again, found = prefill(engine, hidden)
    monkeypatch.undo()
    assert torch.equal(found, wanted)
    assert torch.equal(again.positions, first.positions)
    assert again.layout.key == first.layout.key
    assert again.layout.text_counts == first.layout.text_counts


def test_what_layouts_share_is_what_each_would_derive_alone():
    engine, hidden = engine_of("lightkv"), torch.randn(2, 110, 16)
    prefill(engine, torch.randn(2, 110, 16))
    shared = prefill(engine, hidden)[0].layout
    alone = prefill(engine_of("lightkv"), hidden)[0].layout
    assert shared.key == VisionLayout(shared.length, shared.samples, shared.groups, shared.pads).key
    mine, other = prompt_index(shared, CPU), prompt_index(alone, CPU)
    for name in ("index", "valid", "query_valid"):
        assert torch.equal(getattr(mine, name), getattr(other, name))
    assert mine.padded
    assert other.padded


def test_a_session_forgets_layouts_that_it_has_not_met_lately():
    engine = engine_of("tome")
    first = engine.begin(VisionLayout.from_spans([[(0, (1, 2, 2))]], length=5)).layout
    assert engine.begin(VisionLayout.from_spans([[(0, (1, 2, 2))]], length=5)).layout is first
    for length in range(6, 6 + LAYOUT_CACHE):
        engine.begin(VisionLayout.from_spans([[(0, (1, 2, 2))]], length=length))
    again = engine.begin(VisionLayout.from_spans([[(0, (1, 2, 2))]], length=5)).layout
    assert again is not first


def test_tables_made_in_inference_mode_serve_a_pass_with_gradients():
    engine = engine_of("lightkv")
    with torch.inference_mode():
        prefill(engine, torch.randn(2, 110, 16))
    hidden = torch.randn(2, 110, 16, requires_grad=True)
    prefill(engine, hidden)[1].sum().backward()
    assert bool((hidden.grad != 0).any())


def test_the_sum_over_all_keys_is_formed_once_for_each_head(monkeypatch):
    """However many blocks the prompt columns take."""
    monkeypatch.setattr(attention_module, "BLOCK_ELEMENTS", 8)
    monkeypatch.setattr(attention_module, "BLOCK_SHARE", 10**9)
    calls = []
    whole = QueryKeyView._key_lse
    monkeypatch.setattr(
        QueryKeyView, "_key_lse", lambda self, heads: calls.append(heads) or whole(self, heads)
    )
    prompt = PromptIndex(torch.arange(6)[None], torch.ones(1, 6) > 0, torch.ones(1, 8) > 0)
    view = QueryKeyView(torch.randn(1, 4, 8, 3), torch.randn(1, 2, 8, 3), 1.0, prompt)
    blocks = [view.key_lse(block.heads) for block in view.prompt_logits()]
    assert len(blocks) == 12
    assert len(calls) == 2


def stage_of(**partitioner):
    partitioner = {"name": "windows", **partitioner}
    return Stage.preset("lightkv", ratio=0.5, partitioner=partitioner)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kv_heads", [32, 8])
def test_64k_tokens_take_less_memory_than_their_hidden_states(dtype, kv_heads):
    """Guidance and stage, counted on the meta device, where blocks are as large as on a GPU."""
    vision, text, heads, width = 65536, 75, 32, 4096
    place = VisionLayout.from_spans([[(35, (64, 32, 32))]], length=vision + text)
    meta = torch.device("meta")
    hidden = torch.empty(1, vision + text, width, dtype=dtype, device=meta)
    query = torch.empty(1, heads, vision + text, width // heads, dtype=dtype, device=meta)
    key = torch.empty(1, kv_heads, vision + text, width // heads, dtype=dtype, device=meta)
    stage = stage_of(population=256)
    plan, size = stage.plan(place).to(meta), hidden.numel() * dtype.itemsize
    with torch.no_grad(), LiveBytes().hold(hidden, query, key) as live:
        prompt = prompt_index(place, meta)
        score = stage.scorer.read_attention(QueryKeyView(query, key, 0.1, prompt))
    assert live.peak < 0.5 * size
    assert live.largest[0] < heads * vision * text  # not even one byte for each of [H, N, P]
    with torch.no_grad(), LiveBytes().hold(hidden, score) as live:
        result = run_stage(hidden, place, stage, plan, readings=Readings(score))
    # Half a hidden state is the result itself.
    assert live.peak < 1.15 * size
    assert result.hidden_states.shape == (1, vision // 2 + text, width)


def flops(frames, side):
    vision = frames * side * side
    place = VisionLayout.from_spans([[(0, (frames, side, side))]], length=vision + 8)
    hidden = torch.empty(1, vision + 8, 32, device="meta")
    stage = stage_of(population=64)
    plan = stage.plan(place).to(hidden.device)
    score = torch.empty(1, vision + 8, device="meta")
    with FlopCounterMode(display=False) as counter:
        run_stage(hidden, place, stage, plan, readings=Readings(score))
    return counter.get_total_flops()


def test_matching_grows_linearly_with_the_tokens():
    one = flops(1, 16)
    assert one > 0
    assert flops(1, 64) == 16 * one
    assert flops(32, 16) == 32 * one


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_plain_implementation_gives_the_same_tokens(dtype):
    """What the benchmark compares with is the same method."""
    case = benchmark.Case.make(576, 4, 64, dtype)
    ours, plain = case.ours(benchmark.Clock()), case.dense(benchmark.Clock())
    limit = 1e-5 if dtype == torch.float32 else 0.04
    assert benchmark.differences(ours, plain)["largest"] <= limit
    again = case.dense(benchmark.Clock(), case.guidance())
    assert benchmark.differences(plain, again)["largest"] <= limit


def test_the_plain_windows_are_those_of_the_stage():
    """The benchmark's `PER_SIDE` says what `population` comes to."""
    for vision, grid in benchmark.GRIDS.items():
        place = VisionLayout.from_spans([[(0, grid)]], length=vision + 1)
        partition = stage_of(population=256).partitioner.partition(
            place.samples[0], place.groups[0], None
        )
        plain = np.zeros(vision, dtype=np.int64)
        for number, window in enumerate(dense.split((0, grid), stage_case.PER_SIDE[vision])):
            plain[window.numpy()] = number
        assert np.array_equal(plain, partition.label)
