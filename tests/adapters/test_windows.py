"""Sliding-window layers: windows are measured on the positions that tokens had before compression."""

import pytest
import torch
from test_generic import TestGeneric as GenericSuite
from test_generic import layout_of
from tiny import TEXT
from transformers import (
    DynamicCache,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import lightkv
from lightkv.adapters.hf.masks import sliding_windows
from lightkv.core.errors import ModelError
from lightkv.testing import Prompt

WINDOW = 20


def tiny_mistral(attn_implementation="sdpa", dtype=torch.float32, window=WINDOW):
    config = MistralConfig(**TEXT, sliding_window=window, attn_implementation=attn_implementation)
    torch.manual_seed(0)
    return MistralForCausalLM(config).to(dtype).eval()


class TestMistral(GenericSuite):
    """Every layer slides, and prompts are longer than the window."""

    windows = (WINDOW,) * 6

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        return tiny_mistral(attn_implementation, dtype)


class Alternating(GenericSuite):
    """Full and sliding layers in turn; the first of each kind is not compressed.

    Its contract: tests/families/test_sliding_kinds.py.
    """

    windows = (None, 16, None, 16, 16, None)

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        kinds = ["sliding_attention" if window else "full_attention" for window in self.windows]
        config = Qwen2Config(
            **TEXT,
            use_sliding_window=True,
            sliding_window=16,
            layer_types=kinds,
            attn_implementation=attn_implementation,
        )
        torch.manual_seed(0)
        return Qwen2ForCausalLM(config).to(dtype).eval()


SUITES = (TestMistral(), Alternating())
PROMPT = (Prompt(3, 1, 5, seed=2),)
del GenericSuite


def turns(suite, model, cache, pipeline="random"):
    """Logits of a prefill, a turn of 24 tokens and two decode steps; those of the masked model."""
    tokens = torch.randint(10, 200, (1, 27), generator=torch.Generator().manual_seed(4))
    inputs, logits = suite.make_inputs(model, PROMPT), []
    with suite.session(model, PROMPT, pipeline, trace=True) as session, torch.no_grad():
        logits.append(model(**inputs, past_key_values=cache, use_cache=True).logits[:, -1:])
        for fed in tokens[:, :-1].split([24, 1, 1], dim=1):
            logits.append(model(input_ids=fed, past_key_values=cache).logits)
    positions = torch.arange(100)[None]
    eager = model.config._attn_implementation == "eager"
    wanted = suite.masked_logits(model, PROMPT, tokens, positions, session, eager=eager)
    return torch.cat(logits, dim=1), wanted


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("kind", ["sliding", "recording", "full"])
def test_later_turns_see_what_lies_in_the_window(suite, attention, kind):
    """Also on caches that store more: made without a config, or to be cropped (speculation)."""
    model = suite.make_model(attention)
    cache = DynamicCache() if kind == "full" else DynamicCache(config=model.config)
    for layer in cache.layers:
        if kind == "recording" and layer.is_sliding:
            layer.activate_past_recording()
    found, wanted = turns(suite, model, cache)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("suite", SUITES)
def test_assisted_decoding_gives_the_same_tokens(suite):
    model = suite.make_model()
    inputs = suite.make_inputs(model, PROMPT)
    with suite.session(model, PROMPT, "random"):
        plain = suite.generate(model, inputs, max_new_tokens=30)
    with suite.session(model, PROMPT, "random"):
        assisted = suite.generate(model, inputs, max_new_tokens=30, prompt_lookup_num_tokens=3)
    assert torch.equal(plain.sequences, assisted.sequences)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_guidance_reads_the_attention_that_the_layer_really_pays(attention):
    """The last token does not see the first vision tokens, so they are the least important."""
    model = tiny_mistral(attention, window=8)
    layout = layout_of((Prompt(2, 1, 3),))
    embeds = torch.randn(1, 29, 64, generator=torch.Generator().manual_seed(1))
    schedule = [{"after_layer": 2, "ratio": 0.5}]
    options = {"adapter": "generic", "layout": layout, "schedule": schedule, "trace": True}
    with lightkv.compress(model, "fastv", **options) as run:
        model(inputs_embeds=embeds)
    # 24 vision tokens from place 2 on; the last of 29 tokens sees the 8 from place 21 on.
    score = run.last.scores[0].flatten()
    assert int((score > 0).sum()) == 5
    assert bool((score[-5:] > 0).all())


@pytest.mark.parametrize("sliding_cache", [True, False])
def test_what_the_report_says_of_windows(sliding_cache):
    """Vision tokens that were pushed out of a layer's cache are not counted."""
    model, suite = tiny_mistral(), SUITES[0]
    cache = DynamicCache(config=model.config) if sliding_cache else DynamicCache()
    with suite.session(model, PROMPT) as run, torch.no_grad():
        model(**suite.make_inputs(model, PROMPT), past_key_values=cache)
    sample, per_token = run.last.samples[0], 2 * 2 * 16 * 4
    assert sample.vision_tokens[0] == 24
    lengths = [layer.keys.shape[2] for layer in cache.layers]
    assert sample.kv_bytes == tuple(length * per_token for length in lengths)
    # 3 text tokens come before the image and 5 after it, so at most 14 of 19 places hold it.
    most = WINDOW - 1 - 5 if sliding_cache else 24
    held = [min(count, most) for count in sample.vision_tokens]
    assert sample.vision_kv_bytes == sum(held) * per_token


def test_which_layers_slide():
    full, sliding = "full_attention", "sliding_attention"
    text = {key: value for key, value in TEXT.items() if key != "num_hidden_layers"}
    assert sliding_windows(MistralConfig(**TEXT, sliding_window=9), 6) == (9,) * 6
    assert sliding_windows(MistralConfig(**TEXT, sliding_window=None), 6) == ()
    assert sliding_windows(Qwen2Config(**TEXT, use_sliding_window=False, sliding_window=9), 6) == ()
    mixed = Qwen2Config(
        **text,
        num_hidden_layers=2,
        use_sliding_window=True,
        sliding_window=9,
        layer_types=[full, sliding],
    )
    assert sliding_windows(mixed, 2) == (None, 9)


def test_attention_that_measures_windows_itself_is_refused():
    model = tiny_mistral()
    model.config._attn_implementation_internal = "flash_attention_2"
    before = [len(module._forward_pre_hooks) for module in model.modules()]
    with pytest.raises(ModelError, match="set_attn_implementation"):
        lightkv.attach(model, "fastv", adapter="generic", layout=layout_of(PROMPT))
    assert [len(module._forward_pre_hooks) for module in model.modules()] == before


def test_layers_of_another_kind_are_refused():
    model = tiny_mistral()
    model.config.layer_types = ["full_attention", "indexed_attention"] * 3
    with pytest.raises(ModelError, match="indexed_attention"):
        lightkv.attach(model, "fastv", adapter="generic", layout=layout_of(PROMPT))


@pytest.mark.parametrize("slides", [True, False])
def test_only_sliding_models_keep_original_positions(slides):
    model = tiny_mistral(window=WINDOW if slides else None)
    suite = SUITES[0]
    with suite.session(model, PROMPT) as run:
        cache = suite.generate(model, suite.make_inputs(model, PROMPT)).past_key_values
        record = run._attachment._caches.records[cache]
    kept = [any(s.origin is not None for s in segments) for segments in record.segments]
    assert kept == [False, False, *[slides] * 4]
