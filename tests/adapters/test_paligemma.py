"""The contract of the PaliGemma adapter, on tiny models of both versions with random weights."""

import pytest
import torch
from rows import left_padded, row_ids
from tiny import TEXT
from transformers import (
    Gemma2Config,
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
)

from lightkv.adapters.families.paligemma import PaliGemmaAdapter
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.core.errors import LayoutError, ModelError, SessionError
from lightkv.testing import AdapterSuite, Prompt
from lightkv.testing.oracles import causal_mask, windowed

IMAGE, TOKENS, WINDOW = 5, 36, 24


def tiny_paligemma(text, attn_implementation, dtype):
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 48,
        "patch_size": 8,
        "vision_use_head": False,
        "projection_dim": 64,
    }
    config = PaliGemmaConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE,
        projection_dim=64,
        attn_implementation=attn_implementation,
    )
    torch.manual_seed(0)
    return PaliGemmaForConditionalGeneration(config).to(dtype).eval()


def row_of(prompt):
    ids, generator = row_ids(prompt, [[IMAGE] * TOKENS] * prompt.images, apart=False)
    return ids, torch.randn(prompt.images, 3, 48, 48, generator=generator)


class TestPaliGemma(AdapterSuite):
    cannot = {
        "assistant": "transformers gives drafts the token type of the prompt, which sees what follows"
    }

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        text = GemmaConfig(**{**TEXT, "num_key_value_heads": 1}, head_dim=16)
        return tiny_paligemma(text, attn_implementation, dtype)

    def make_inputs(self, model, prompts):
        rows, pixels = zip(*(row_of(prompt) for prompt in prompts), strict=True)
        inputs = left_padded(rows)
        inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
        if sum(prompt.images for prompt in prompts):
            inputs["pixel_values"] = torch.cat(pixels).to(model.dtype)
        return inputs

    def extended(self, model, inputs, tokens):
        types = torch.cat([inputs["token_type_ids"], torch.ones_like(tokens)], dim=1)
        return {**super().extended(model, inputs, tokens), "token_type_ids": types}

    def joined(self, first, later):
        # `generate` reads later turns in one direction, whatever types they have.
        return super().joined(
            first, {**later, "token_type_ids": torch.ones_like(later["input_ids"])}
        )

    def own_masks(self, model, inputs):
        """Per layer `[B, N, N]`: (window AND causal) OR both in the prompt."""
        prompt = inputs["token_type_ids"] == 0
        same = prompt[:, :, None] & prompt[:, None]
        causal = causal_mask(prompt.shape[1])
        return [windowed(causal, window)[None] | same for window in self.windows or (None,) * 6]

    def options(self, model, prompts):
        return {"adapter": PaliGemmaAdapter()}


class PaliGemma2(TestPaliGemma):
    """Alternating sliding layers and capped logits, for which transformers has eager attention only.

    Its contract: tests/families/test_sliding_kinds.py.
    """

    windows = (WINDOW, None) * 3
    cannot = TestPaliGemma.cannot | {"sdpa": "Gemma 2 decoders run with eager attention only"}

    def make_model(self, attn_implementation="eager", dtype=torch.float32):
        self.need(attn_implementation)
        text = Gemma2Config(
            **TEXT,
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=WINDOW,
            attn_logit_softcapping=2.0,
        )
        return tiny_paligemma(text, attn_implementation, dtype)

    def masked_logits(self, *args, eager, **options):
        return super().masked_logits(*args, eager=True, **options)


SUITE = TestPaliGemma()


def test_pixels_on_a_filled_cache_are_refused():
    model = SUITE.make_model()
    inputs = SUITE.make_inputs(model, [Prompt(0, 1, 3)])
    inputs.pop("attention_mask")
    with SUITE.session(model, []), torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
        with pytest.raises(SessionError, match="filled cache"):
            model(**inputs, past_key_values=cache)


def test_token_types_are_needed():
    model = SUITE.make_model()
    inputs = SUITE.make_inputs(model, [Prompt(0, 1, 3)])
    inputs.pop("token_type_ids")
    with pytest.raises(ModelError, match="token_type_ids"), SUITE.session(model, []):
        model(**inputs)


def test_a_wrong_number_of_placeholders_is_refused():
    model = SUITE.make_model()
    ids = torch.tensor([[*[IMAGE] * 35, 8]])
    inputs = {"input_ids": ids, "pixel_values": torch.ones(1), "token_type_ids": ids * 0}
    with pytest.raises(LayoutError, match="35 image placeholders, but each image takes 36"):
        PaliGemmaAdapter().layout(model, read_inputs(model.model, (), inputs))


def test_a_question_after_the_first_answer_sees_what_was_kept():
    """A later turn is causal; the same law holds for it."""
    suite, prompts = PaliGemma2(), (Prompt(0, 1, 4, seed=3),)
    model = suite.make_model()
    turn = torch.randint(10, 200, (1, 25), generator=torch.Generator().manual_seed(4))
    inputs = suite.make_inputs(model, prompts)
    inputs.pop("attention_mask")
    with suite.session(model, prompts, "random", trace=True) as session, torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
        found = model(input_ids=turn[:, :-1], past_key_values=cache).logits
    positions = torch.arange(1, 100)[None]
    wanted = suite.masked_logits(model, prompts, turn, positions, session, eager=False)
    torch.testing.assert_close(found, wanted[:, 1:], atol=1e-5, rtol=0)
