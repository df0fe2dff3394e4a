"""`lightkv plan --trace`: what is counted is what a real class does on the meta device."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import (
    InternVLConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    Qwen2_5_VLConfig,
    Qwen3Config,
)

from lightkv.checkpoints.published import DESCRIPTIONS, TEXT_TOKENS
from lightkv.cli.plan.trace import COMPRESSION, KV, compare
from lightkv.core.cost.counting import prompt_layout
from lightkv.core.pipeline.pipeline import Pipeline

DEPTH = 6
"""Layers of the models here; every layer counts alike."""
STAGES = [
    {"after_layer": 1 + 2 * i, "windows": side, "ratio": 0.5} for i, side in enumerate((4, 2, 1))
]
CLASSES = {
    "llava-v1.5-7b": "LlavaForConditionalGeneration",
    "llava-v1.5-13b": "LlavaForConditionalGeneration",
    "llava-next-7b": "LlavaNextForConditionalGeneration",
    "llava-next-13b": "LlavaNextForConditionalGeneration",
    "internvl2-8b": "InternVLForConditionalGeneration",
    "eve-7b": "LlamaForCausalLM",
    "eve-7b-hd": "LlamaForCausalLM",
    "qwen2.5-vl-7b": "Qwen2_5_VLForConditionalGeneration",
}


def shallow(name: str, **sizes):
    described = DESCRIPTIONS[name]
    return replace(described, shape=replace(described.shape, num_layers=DEPTH, **sizes))


def traced(described, strategy="lightkv", **changes):
    pipeline = Pipeline.build(strategy, DEPTH, **changes)
    return compare(described, pipeline, prompt_layout(described.views, TEXT_TOKENS))


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_counted_is_measured_to_the_last_digit(name):
    """Prefill, decode step, cache and compression; vanilla and compressed; widths as they are."""
    found = traced(shallow(name), schedule=STAGES)
    assert found.model == CLASSES[name]
    assert found.equal
    assert len(found.vanilla) == 3
    assert len(found.compressed) == 4
    for _, counted, measured in (*found.vanilla, *found.compressed):
        assert counted == measured > 0
    assert found.compressed[0][2] < found.vanilla[0][2]
    assert set(found.traces[1].role_flops) == {"scoring", "matching", "aggregation"}
    assert found.traces[0].role_flops == {}
    assert len(set(found.traces[1].kv_bytes)) == 4
    assert len(set(found.traces[0].kv_bytes)) == 1


@pytest.mark.parametrize("strategy", ["tome", "fastv", "lightkv-release", "divprune", "tome-cache"])
def test_other_strategies_cost_the_model_what_is_counted(strategy):
    """Compression is an estimate there; what the model does and stores is exact."""
    found = traced(shallow("llava-v1.5-7b"), strategy)
    assert found.equal
    if strategy in ("tome", "lightkv-release"):
        name, counted, measured = found.compressed[-1]
        assert name == COMPRESSION
        assert counted == measured


def test_a_wrong_count_is_noticed():
    found = traced(shallow("eve-7b"), schedule=STAGES)
    wrong = [(n, c + (n == KV), m) for n, c, m in found.compressed]
    assert found.equal
    assert not replace(found, compressed=tuple(wrong)).equal
    estimate = [(n, c + (n == COMPRESSION), m) for n, c, m in found.compressed]
    assert replace(found, compressed=tuple(estimate)).equal


@pytest.mark.parametrize(
    "config",
    [
        LlavaConfig(text_config=LlamaConfig(num_hidden_layers=DEPTH)),
        LlavaNextConfig(text_config=LlamaConfig(num_hidden_layers=DEPTH, num_key_value_heads=4)),
        InternVLConfig(text_config={"model_type": "qwen2", "num_hidden_layers": DEPTH}),
        Qwen2_5_VLConfig(text_config={"num_hidden_layers": DEPTH}),
        Qwen3Config(num_hidden_layers=DEPTH, hidden_size=512, intermediate_size=1024),
    ],
    ids=lambda config: config.model_type,
)
def test_any_config_can_be_traced(ok_json, tmp_path, config):
    config.save_pretrained(tmp_path)
    alone = ("--adapter", "generic") if config.model_type == "qwen3" else ()
    found = ok_json(
        "plan", tmp_path / "config.json", "--grid", "24x24", "--trace", *alone, "--json"
    )
    assert found["trace"]["equal"] is True
    for side in ("vanilla", "compressed"):
        prefill = found["trace"][side]["prefill FLOPs"]
        assert prefill["measured"] == found[side]["prefill_flops"]


def test_the_command_prints_both(ok, ok_json, bundled):
    text = " ".join(ok("plan", "demo", "--trace").split())
    assert "counted measured" in text
    assert text.count(" = ") == 7
    assert "the full square of attention" in text
    two = ok_json("plan", "demo", "--trace", "--json")["trace"]
    four = ok_json("plan", "demo", "--trace", "--json", "--dtype-bytes", 4)["trace"]
    for side in ("vanilla", "compressed"):
        assert four[side][KV]["measured"] == 2 * two[side][KV]["measured"]


def test_what_cannot_be_traced_says_so(fails, ok):
    assert "--dtype-bytes" in fails("plan", "eve-7b", "--trace", "--dtype-bytes", 3)
    assert "vision encoder" in fails("plan", "llava-v1.5-7b", "--trace", "--strategy", "visionzip")
    assert "visionzip" in ok("plan", "llava-v1.5-7b", "--strategy", "visionzip")
