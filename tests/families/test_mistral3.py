"""The contract of the Mistral 3 and Pixtral adapter: one run of placeholders for each row."""

import pytest
import torch
from rows import check_sizes, sized_rows
from tiny import TEXT
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralVisionConfig,
)

from lightkv.adapters.families.llava import LlavaAdapter
from lightkv.adapters.families.mistral3 import Mistral3Adapter
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.core.errors import LayoutError
from lightkv.testing import AdapterSuite

IMAGE, BREAK, END, PATCH = 5, 6, 7, 4


def tiny(kind, attn_implementation="sdpa", dtype=torch.float32):
    vision = PixtralVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        patch_size=PATCH,
    )
    common = {
        "vision_config": vision,
        "text_config": MistralConfig(**TEXT, sliding_window=None),
        "image_token_id": IMAGE,
        "vision_feature_layer": -1,
        "attn_implementation": attn_implementation,
    }
    torch.manual_seed(0)
    if kind == "mistral3":
        config = Mistral3Config(**common, spatial_merge_size=2)
        return Mistral3ForConditionalGeneration(config).to(dtype).eval()
    config = LlavaConfig(**common, vision_feature_select_strategy="full")
    return LlavaForConditionalGeneration(config).to(dtype).eval()


def block(rows, columns):
    """What the processor writes: a break after each row, another token after the last."""
    return [*([*[IMAGE] * columns, BREAK] * rows)[:-1], END]


class TestMistral3(AdapterSuite):
    """The first image of a prompt has 4 × 6 tokens, others 5 × 3."""

    kind, step = "mistral3", 8

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        return tiny(self.kind, attn_implementation, dtype)

    def make_inputs(self, model, prompts):
        return sized_rows(model, prompts, [(4, 6), (5, 3)], self.step, block)

    def options(self, model, prompts):
        return {"adapter": Mistral3Adapter()}


class Pixtral(TestMistral3):
    kind, step = "pixtral", 4


@pytest.mark.parametrize(("kind", "step"), [("mistral3", 8), ("pixtral", 4)])
@pytest.mark.parametrize("image", [0, 1])
def test_layout_truth_with_two_images_of_different_sizes(kind, step, image):
    check_sizes(Mistral3Adapter(), tiny(kind), [(3, 7), (5, 2)], step, block, image)


def test_each_llava_goes_to_the_adapter_of_its_tower():
    model = tiny("pixtral")
    assert Mistral3Adapter().matches(model)
    assert not LlavaAdapter().matches(model)


def test_a_row_too_few_is_refused():
    model = tiny("mistral3")
    inputs = {"input_ids": torch.tensor([[9, *block(3, 4), 9]])}
    inputs |= {"pixel_values": torch.ones(1, 3, 32, 32), "image_sizes": torch.tensor([[32, 32]])}
    with pytest.raises(LayoutError, match="12 image placeholders"):
        Mistral3Adapter().layout(model, read_inputs(model.model, (), inputs))
