"""Sizes of decoders: what is counted of a config is what its class does and holds.

Run on the meta device, where torch's FlopCounterMode counts matrix products. Experts run one by one
there (`batched_mm`): which of them a token meets depends on values, how many does not.
"""

from dataclasses import replace

import pytest
import torch
from decoders import CONFIGS
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from lightkv import Pipeline
from lightkv.adapters.hf import contact
from lightkv.adapters.hf.shapes import decoder_shape
from lightkv.checkpoints.published import Description
from lightkv.cli.plan.trace import compare
from lightkv.core.cost.counting import ViewSize, prompt_layout
from lightkv.core.errors import ConfigError, ModelError

TOKENS = 300
COUNTED = set(CONFIGS) - {"chunks", "shared caches"}
"""Decoders that compute what their configs ask for, and nothing else."""


def on_meta(config):
    """A model without values, whose experts run by shape."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config).eval().to(torch.bfloat16)
    contact.run_experts_by_shape(model)
    return model


def measured(kind):
    """The shape; FLOPs of a prefill and of a decode step; bytes of each layer's cache in between."""
    config = CONFIGS[kind]()
    model, shape = on_meta(config), decoder_shape(config)
    counter, cache, flops = FlopCounterMode(display=False), None, []
    with torch.no_grad(), counter:
        for tokens in (TOKENS, 1):
            given = {"inputs_embeds": torch.empty(1, tokens, config.hidden_size)}
            if width := getattr(config, "hidden_size_per_layer_input", 0):
                shaped = torch.empty(1, tokens, config.num_hidden_layers, width)
                given["per_layer_inputs"] = shaped
            given = {name: t.to("meta", torch.bfloat16) for name, t in given.items()}
            places = torch.empty(1, tokens, dtype=torch.long, device="meta")
            before = counter.get_total_flops()
            out = model(
                **given,
                position_ids=places,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            flops.append(counter.get_total_flops() - before)
            if cache is None:
                cache = out.past_key_values
                held = [contact.held_bytes(layer) for layer in cache.layers]
    # In some releases a cache ends with the last layer that has entries.
    held += [0] * (config.num_hidden_layers - len(held))
    return replace(shape, bytes_per_value=2), flops, held


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_counted_is_measured(kind):
    shape, flops, held = measured(kind)
    lengths = [TOKENS] * shape.num_layers
    assert [shape.layer_bytes(i, n) for i, n in enumerate(lengths)] == held
    assert shape.kv_bytes(lengths) == sum(held)
    counted = [shape.prefill_flops(lengths), shape.decode_flops(lengths, 1)]
    if kind in COUNTED:
        assert counted == flops
        assert not shape.estimate
    assert bool(shape.layers) == (kind != "llama")


def test_llama_4_runs_every_expert_and_is_counted_by_those_it_asks_for():
    shape, flops, _ = measured("chunks")
    config = CONFIGS["chunks"]()
    idle = config.num_local_experts - config.num_experts_per_tok
    maps = 3 * config.hidden_size * config.intermediate_size
    more = 2 * len(config.moe_layers) * idle * maps
    counted = shape.prefill_flops([TOKENS] * 8), shape.decode_flops([TOKENS] * 8, 1)
    assert flops == [counted[0] + TOKENS * more, counted[1] + more]


def test_layers_that_read_the_cache_of_others_are_an_estimate():
    """Some releases run them for the last token only, where one row of logits is wanted."""
    shape, flops, held = measured("shared caches")
    assert held[-2:] == [0, 0]
    assert "cache of others" in shape.estimate
    lengths = [TOKENS] * 8
    assert flops[1] == shape.decode_flops(lengths, 1)
    last = sum(
        shape.layer_flops(TOKENS, TOKENS, i) - shape.layer_flops(1, TOKENS, i) for i in (6, 7)
    )
    assert flops[0] in (whole := shape.prefill_flops(lengths), whole - last)


@pytest.mark.parametrize("kind", ["experts", "latents", "delta rule, experts", "convolutions"])
def test_a_compressed_run_does_what_is_counted(kind):
    """The guidance reads a layer of attention, with the heads that this layer has."""
    config = CONFIGS[kind]()
    after = 6 if kind == "convolutions" else 4
    pipeline = Pipeline.build(
        "lightkv", 8, schedule=[{"after_layer": after, "ratio": 0.5, "windows": 2}]
    )
    described = Description(kind, decoder_shape(config), config=config)
    found = compare(described, pipeline, prompt_layout([ViewSize((1, 16, 16))], 44))
    assert found.equal
    name, counted, done = found.compressed[-1]
    assert counted == done > 0, name
    assert found.compressed[0][2] < found.vanilla[0][2]


def test_what_is_not_known_is_an_estimate():
    config = CONFIGS["llama"]()
    config.layer_types = ["full_attention", "strange_attention"] * 4
    shape = decoder_shape(config)
    assert shape.estimate == "layers of strange_attention are counted as full attention"
    config = CONFIGS["experts"]()
    vars(config)["num_experts_per_tok"] = None
    assert "how many it goes to is not known" in decoder_shape(config).estimate
    config = CONFIGS["llama"]()
    vars(config)["hidden_size"] = None
    with pytest.raises(ModelError, match="lacks a size"):
        decoder_shape(config)


def test_bytes_of_a_token_are_asked_of_a_layer_where_layers_differ():
    shape = decoder_shape(CONFIGS["own heads"]())
    assert shape.token_bytes(0) < shape.token_bytes(5)
    with pytest.raises(ConfigError, match="different numbers of bytes"):
        _ = shape.kv_bytes_per_token
    assert decoder_shape(CONFIGS["latents"]()).kv_bytes_per_token == 2 * (40 + 8)
    spread = replace(decoder_shape(CONFIGS["latents"]()), processes=2)
    assert spread.kv_bytes_per_token == 2 * (40 + 8)
