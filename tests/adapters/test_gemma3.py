"""The contract of the Gemma 3 adapter, on a tiny SigLIP + Gemma 3 with random weights."""

import pytest
import torch
from releases import LATER_IMAGE
from rows import left_padded, row_ids
from test_generic import TestGeneric as GenericSuite
from tiny import TEXT
from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
)

import lightkv
from lightkv.adapters.families.gemma3 import Gemma3Adapter
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.core.errors import LayoutError, ModelError
from lightkv.testing import AdapterSuite, Prompt
from lightkv.testing.oracles import causal_mask, windowed

IMAGE, START, END, SIDE = 5, 6, 7, 6
WINDOWS = (24, 24, None, 24, 24, None)
ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "default", "rope_theta": 1e6},
}


def text_config(**changes):
    kinds = ["sliding_attention" if window else "full_attention" for window in WINDOWS]
    return Gemma3TextConfig(
        **TEXT,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=24,
        layer_types=kinds,
        rope_parameters=ROPES,
        **changes,
    )


def tiny_gemma3(attn_implementation="sdpa", dtype=torch.float32):
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 48,
        "patch_size": 4,
        "vision_use_head": False,
    }
    config = Gemma3Config(
        text_config=text_config(),
        vision_config=vision,
        mm_tokens_per_image=SIDE * SIDE,
        image_token_id=IMAGE,
        boi_token_id=START,
        eoi_token_id=END,
        attn_implementation=attn_implementation,
    )
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(config)
    # It is zero at first, and images would have no effect.
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.1)
    return model.to(dtype).eval()


def tiny_text(attn_implementation="sdpa", dtype=torch.float32):
    torch.manual_seed(0)
    config = text_config(attn_implementation=attn_implementation)
    return Gemma3ForCausalLM(config).to(dtype).eval()


def row_of(prompt):
    image = [START, *[IMAGE] * SIDE * SIDE, END]
    ids, generator = row_ids(prompt, [image] * prompt.images, apart=False)
    return ids, torch.randn(prompt.images, 3, 48, 48, generator=generator)


def own_masks(ids):
    """Per layer `[B, N, N]`: window AND (causal OR the same image)."""
    image = ids == IMAGE
    number = torch.where(image, (ids == START).cumsum(1), -1)
    same = (number[:, :, None] == number[:, None]) & image[:, :, None]
    return [windowed(causal_mask(ids.shape[1])[None] | same, window) for window in WINDOWS]


class TestGemma3(AdapterSuite):
    windows = WINDOWS
    cannot = LATER_IMAGE

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        return tiny_gemma3(attn_implementation, dtype)

    def make_inputs(self, model, prompts):
        rows, pixels = zip(*(row_of(prompt) for prompt in prompts), strict=True)
        inputs = left_padded(rows)
        inputs["token_type_ids"] = (inputs["input_ids"] == IMAGE).long()
        if sum(prompt.images for prompt in prompts):
            inputs["pixel_values"] = torch.cat(pixels).to(model.dtype)
        return inputs

    def extended(self, model, inputs, tokens):
        whole = super().extended(model, inputs, tokens)
        return {**whole, "token_type_ids": (whole["input_ids"] == IMAGE).long()}

    def own_masks(self, model, inputs):
        return own_masks(inputs["input_ids"])

    def options(self, model, prompts):
        return {"adapter": Gemma3Adapter()}


class Gemma3Text(GenericSuite):
    """The text decoder by itself: causal, two rotary bases.

    Its contract: tests/families/test_sliding_kinds.py.
    """

    windows = WINDOWS

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        return tiny_text(attn_implementation, dtype)


del GenericSuite
SUITE = TestGemma3()


def test_each_rotary_base_follows_the_position_policy():
    """Moved positions give each kind of layer tables of its own base."""
    model = tiny_gemma3()
    seen = {}

    def look(layer, args, kwargs):
        seen[layer.self_attn.layer_idx] = kwargs["position_embeddings"][0]

    inputs = SUITE.make_inputs(model, [Prompt(2, 1, 3, seed=1)])
    with SUITE.session(model, [], "random", positions="renumber"), torch.no_grad():
        for layer in model.get_decoder().layers:
            layer.register_forward_pre_hook(look, with_kwargs=True)
        model(**inputs)
    emb, hidden = model.get_decoder().rotary_emb, torch.zeros(1)
    for layer in (4, 5):
        kind = text_config().layer_types[layer]
        places = torch.arange(seen[layer].shape[1])[None]
        assert torch.equal(seen[layer], emb(hidden, places, kind)[0])


def test_a_wrong_number_of_placeholders_is_refused():
    model = tiny_gemma3()
    ids = torch.tensor([[9, *[IMAGE] * 35, 8]])
    inputs = {"input_ids": ids, "pixel_values": torch.ones(1)}
    with pytest.raises(LayoutError, match="35 image placeholders, but each image takes 36"):
        Gemma3Adapter().layout(model, read_inputs(model.model, (), inputs))


def test_what_cannot_be_right_is_refused():
    model = tiny_gemma3()
    text = model.get_decoder().config
    text._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ModelError, match="set_attn_implementation"):
        lightkv.attach(model, "fastv", adapter=Gemma3Adapter())
    text = tiny_text()
    text.config.use_bidirectional_attention = True
    layout = lightkv.VisionLayout.from_spans([[(2, (1, 4, 4))]])
    with pytest.raises(ModelError, match="both directions"):
        lightkv.attach(text, "fastv", adapter="generic", layout=layout)
