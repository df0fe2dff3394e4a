"""Reported bytes are the bytes of the cache's tensors, whatever their dtype and whoever made them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from decoders import CONFIGS
from test_llava import TestLlava as LlavaSuite
from transformers import AutoModelForCausalLM, DynamicCache, QuantizedCache

import lightkv
from lightkv.adapters.hf import contact
from lightkv.core.cost.counting import count_savings
from lightkv.testing import Prompt

HALF = [{"after_layer": 2, "ratio": 0.5}]
PROMPTS = (Prompt(6, 1, 5, 1), Prompt(4, 1, 6, 2))


def tensors(value: Any) -> list[torch.Tensor]:
    """All plain tensors inside a value, each once."""
    if isinstance(value, torch.Tensor):
        if type(value) is torch.Tensor:
            return [value]
        return [t for part in vars(value).values() for t in tensors(part)]
    parts = value if isinstance(value, list | tuple) else ()
    return [t for part in parts for t in tensors(part)]


def held(cache: Any) -> tuple[int, ...]:
    """Bytes of each layer's tensors."""
    names = ("keys", "values", "_quantized_keys", "_quantized_values")
    return tuple(
        sum(t.nbytes for name in names for t in tensors(getattr(layer, name, None)))
        for layer in cache.layers
    )


def check(report: Any, cache: Any, rows: int) -> None:
    assert report.cache_bytes == held(cache)
    lengths = [layer.get_seq_length() for layer in cache.layers]
    for sample in report.samples:
        shares = zip(sample.vision_tokens, sample.kv_bytes, held(cache), lengths, strict=True)
        vision = 0
        for count, size, whole, length in shares:
            assert size == (sample.text_tokens + count) * whole // (rows * length)
            vision += count * whole // (rows * length)
        assert sample.vision_kv_bytes == vision


@torch.no_grad()
def test_the_decoder_s_dtype_counts_not_the_first_parameter_s() -> None:
    suite = LlavaSuite()
    model: Any = suite.make_model(dtype=torch.bfloat16)
    model.model.vision_tower.float()
    projector = model.model.multi_modal_projector
    projector.register_forward_pre_hook(lambda module, args: (args[0].bfloat16(),))
    inputs = suite.make_inputs(model, PROMPTS)
    inputs["pixel_values"] = inputs["pixel_values"].float()
    with lightkv.compress(model, "fastv", schedule=HALF) as run:
        cache = model(**inputs, use_cache=True).past_key_values
        check(run.last, cache, 2)
        model(**inputs, use_cache=False)
    assert cache.layers[0].keys.dtype == torch.bfloat16
    # Without a cache the bytes are those that one would have.
    assert run.last.cache_bytes is None
    assert run.reports[0].vision_kv_bytes == run.last.vision_kv_bytes


@torch.no_grad()
@pytest.mark.parametrize("pipeline", ["fastv", "imgrand"])
def test_a_model_that_is_cast_inside_its_session(pipeline: str) -> None:
    suite = LlavaSuite()
    model: Any = suite.make_model()
    schedule = HALF if pipeline == "fastv" else [{"site": "cache", "ratio": 0.5}]
    with lightkv.compress(model, pipeline, schedule=schedule) as run:
        for dtype in (torch.float32, torch.bfloat16):
            model.to(dtype)
            cache = model(**suite.make_inputs(model, PROMPTS), use_cache=True).past_key_values
            check(run.last, cache, 2)
            assert cache.layers[0].keys.dtype == dtype
    assert sum(run.reports[0].cache_bytes) == 2 * sum(run.reports[1].cache_bytes)


@torch.no_grad()
@pytest.mark.parametrize("bits", [2, 4])
def test_bytes_of_a_quantised_cache(bits: int) -> None:
    pytest.importorskip("optimum.quanto")
    suite = LlavaSuite()
    model: Any = suite.make_model()
    config = model.config.get_text_config()
    cache = QuantizedCache("quanto", config, nbits=bits, q_group_size=16, residual_length=8)
    with lightkv.compress(model, "fastv", schedule=HALF) as run:
        model(**suite.make_inputs(model, PROMPTS), past_key_values=cache, use_cache=True)
    check(run.last, cache, 2)
    full = sum(layer.get_seq_length() for layer in cache.layers) * 2 * 2 * 2 * 16 * 4
    assert sum(run.last.cache_bytes) < full / 3


@torch.no_grad()
def test_a_later_turn_counts_what_the_cache_holds_then() -> None:
    suite = LlavaSuite()
    model: Any = suite.make_model()
    prompts = PROMPTS[:1]
    with lightkv.compress(model, "fastv", schedule=HALF) as run:
        cache = DynamicCache()
        for turn in range(2):
            inputs = suite.make_inputs(model, prompts)
            mask = torch.ones(1, (turn + 1) * inputs["input_ids"].shape[1], dtype=torch.long)
            inputs["attention_mask"] = mask
            model(**inputs, past_key_values=cache, use_cache=True)
            assert run.last.cache_bytes == held(cache)
    one, two = run.reports
    assert sum(two.cache_bytes) == 2 * sum(one.cache_bytes)
    assert one.vision_kv_bytes == two.vision_kv_bytes


SPANS = lightkv.VisionLayout.from_spans([[(2, (1, 6, 8))]])
KINDS = ("latents", "delta rule", "convolutions", "own heads", "shared caches", "chunks")
AFTER = {"convolutions": 3, "delta rule": 4}
"""Layers of attention that a stage reads stand before these; elsewhere any will do."""


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_of_every_kind_of_cache(kind: str, dtype: torch.dtype) -> None:
    """Latents, constant states, windows, heads of their own width, layers that read another's entries.

    With a cache, and without, where bytes are those that one would have.
    """
    torch.manual_seed(0)
    config = CONFIGS[kind]()
    model: Any = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    inputs = {"input_ids": torch.randint(3, 200, (1, 60))}
    schedule = [{"after_layer": AFTER.get(kind, 2), "ratio": 0.5}]
    given = {"schedule": schedule, "adapter": "generic", "layout": SPANS}
    with lightkv.compress(model, "fastv", **given) as run:
        cache = model(**inputs, use_cache=True).past_key_values
        model(**inputs, use_cache=False)
    read, counted = run.reports
    held = [contact.held_bytes(layer) for layer in cache.layers]
    assert read.cache_bytes == (*held, *[0] * (8 - len(held)))
    assert counted.samples == read.samples
    [sample] = read.samples
    shape = run._engine.shape
    lengths = [sample.text_tokens + count for count in sample.vision_tokens]
    assert read.cache_bytes == tuple(map(shape.layer_bytes, range(8), lengths))
    states = [shape.state_bytes(layer) for layer in range(8)]
    for size, state, whole in zip(sample.kv_bytes, states, read.cache_bytes, strict=True):
        assert size + state == whole
    assert (sum(states) > 0) == (kind in AFTER)
    assert (read.cache_bytes[-1] == 0) == (kind == "shared caches")
    assert sample.vision_kv_bytes < sum(sample.kv_bytes)


@torch.no_grad()
def test_a_plan_of_a_stage_on_the_cache_counts_layers_with_entries() -> None:
    """Retention, bytes and FLOPs of the stage, as a session on the same decoder reports them."""
    torch.manual_seed(0)
    config = CONFIGS["delta rule"]()
    model: Any = AutoModelForCausalLM.from_config(config).eval()
    given = {"schedule": [{"site": "cache", "ratio": 0.5}], "adapter": "generic", "layout": SPANS}
    with lightkv.compress(model, "tome-cache", **given) as run:
        model(input_ids=torch.randint(3, 200, (1, 60)), use_cache=True)
    shape = run._engine.shape
    found = count_savings(run.pipeline, shape, SPANS.with_length(60), 1)
    [sample] = run.last.samples
    assert found.retention == sample.retention == 0.5
    assert found.compressed.kv_bytes == sum(run.last.cache_bytes)
    assert found.compressed.vision_kv_bytes == sample.vision_kv_bytes
    assert found.compressed.compression_flops == sample.compression_flops > 0
    assert found.stateful == sample.stateful == (0, 1, 2, 4, 5, 6)
