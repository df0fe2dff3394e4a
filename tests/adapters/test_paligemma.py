"""The contract of the PaliGemma adapter: a prefix that sees itself in both directions."""

import pytest
import torch
from rows import check_truth, left_padded, row_ids
from tiny import TEXT
from transformers import (
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    SiglipVisionConfig,
)

from lightkv.adapters.inputs import read_inputs
from lightkv.adapters.paligemma import PaliGemmaAdapter
from lightkv.core.errors import LayoutError
from lightkv.testing import AdapterSuite
from lightkv.testing.adapters import MIXED
from lightkv.testing.truth import points

IMAGE, SIDE, PATCH = 5, 6, 8


class TestPaliGemma(AdapterSuite):
    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        vision = SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=SIDE * PATCH,
            patch_size=PATCH,
            vision_use_head=False,
            projection_dim=64,
        )
        config = PaliGemmaConfig(
            vision_config=vision,
            text_config=GemmaConfig(**{**TEXT, "num_key_value_heads": 1}, head_dim=16),
            image_token_id=IMAGE,
            projection_dim=64,
            attn_implementation=attn_implementation,
        )
        torch.manual_seed(0)
        return PaliGemmaForConditionalGeneration(config).to(dtype).eval()

    def make_inputs(self, model, prompts):
        rows, pixels = [], []
        for prompt in prompts:
            ids, generator = row_ids(prompt, [[IMAGE] * SIDE * SIDE] * prompt.images)
            rows.append(ids)
            size = (prompt.images, 3, SIDE * PATCH, SIDE * PATCH)
            pixels.append(torch.randn(*size, generator=generator))
        inputs = left_padded(rows)
        inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
        if sum(prompt.images for prompt in prompts):
            inputs["pixel_values"] = torch.cat(pixels).to(model.dtype)
        return inputs

    def options(self, model, prompts):
        return {"adapter": PaliGemmaAdapter()}

    def extended(self, model, inputs, tokens):
        whole = super().extended(model, inputs, tokens)
        types = torch.cat([inputs["token_type_ids"], torch.ones_like(tokens)], dim=1)
        return {**whole, "token_type_ids": types}

    def attends(self, whole):
        prefix = whole["token_type_ids"] == 0
        length = prefix.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        return causal | (prefix[:, :, None] & prefix[:, None, :])


def test_layout_truth():
    suite = TestPaliGemma()
    model, generator = suite.make_model(), torch.Generator().manual_seed(1)
    ids = torch.tensor([[*[IMAGE] * 2 * SIDE * SIDE, 1, 50, 51]])
    inputs = {
        "input_ids": ids,
        "token_type_ids": torch.zeros_like(ids),
        "pixel_values": torch.randn(2, 3, SIDE * PATCH, SIDE * PATCH, generator=generator),
    }
    for number, (y, x) in enumerate(points(SIDE, SIDE)):
        image, painted = number % 2, inputs["pixel_values"].clone()
        top, left = int(y * SIDE) * PATCH, int(x * SIDE) * PATCH
        painted[image, :, top : top + PATCH, left : left + PATCH] += 3.0
        changed = {**inputs, "pixel_values": painted}
        check_truth(PaliGemmaAdapter(), model, inputs, changed, {image: (0, y, x)})


def test_the_compressed_layers_are_not_causal():
    """Against a causal reference the same run is wrong: the gathered mask keeps both directions."""
    suite = TestPaliGemma()
    suite.attends = lambda whole: None
    found, causal = suite.drop_and_mask(suite.make_model(), MIXED[:1], "random", eager=False)
    assert (found - causal).abs().max() > 1e-3


def test_a_wrong_number_of_placeholders_is_refused():
    model = TestPaliGemma().make_model()
    inputs = {"input_ids": torch.tensor([[*[IMAGE] * 35, 1]]), "pixel_values": torch.ones(1)}
    with pytest.raises(LayoutError, match="each image takes 36"):
        PaliGemmaAdapter().layout(model, read_inputs(model.model, (), inputs))
