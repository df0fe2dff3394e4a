"""The contract of the Mistral 3 and Pixtral adapter: one run of placeholders for each row."""

import pytest
import torch
from rows import check_truth, left_padded, row_ids
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
from lightkv.testing.truth import points

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


def padded(images):
    """Images of different sizes in one tensor, and their sizes."""
    height = max(image.shape[1] for image in images)
    width = max(image.shape[2] for image in images)
    pixels = torch.zeros(len(images), 3, height, width)
    for number, image in enumerate(images):
        pixels[number, :, : image.shape[1], : image.shape[2]] = image
    return pixels, torch.tensor([image.shape[1:] for image in images])


class TestMistral3(AdapterSuite):
    """The first image of a prompt has 4 × 6 tokens, others 5 × 3."""

    kind, step = "mistral3", 8

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        return tiny(self.kind, attn_implementation, dtype)

    def make_inputs(self, model, prompts):
        rows, images = [], []
        for prompt in prompts:
            grids = [(4, 6), (5, 3)][: prompt.images]
            ids, generator = row_ids(prompt, [block(*grid) for grid in grids])
            rows.append(ids)
            images += [
                torch.randn(3, h * self.step, w * self.step, generator=generator) for h, w in grids
            ]
        inputs = left_padded(rows)
        if images:
            pixels, inputs["image_sizes"] = padded(images)
            inputs["pixel_values"] = pixels.to(model.dtype)
        return inputs

    def options(self, model, prompts):
        return {"adapter": Mistral3Adapter()}


class Pixtral(TestMistral3):
    kind, step = "pixtral", 4


@pytest.mark.parametrize(("kind", "step"), [("mistral3", 8), ("pixtral", 4)])
@pytest.mark.parametrize("image", [0, 1])
def test_layout_truth_with_two_images_of_different_sizes(kind, step, image):
    model, generator = tiny(kind), torch.Generator().manual_seed(1)
    grids = [(3, 7), (5, 2)]
    images = [torch.randn(3, h * step, w * step, generator=generator) for h, w in grids]
    pixels, sizes = padded(images)
    ids = torch.tensor([[50, *block(*grids[0]), 51, *block(*grids[1]), 52]])
    inputs = {"input_ids": ids, "pixel_values": pixels, "image_sizes": sizes}
    rows, columns = grids[image]
    for y, x in points(rows, columns):
        painted, top, left = pixels.clone(), int(y * rows) * step, int(x * columns) * step
        painted[image, :, top : top + step, left : left + step] += 3.0
        changed = {**inputs, "pixel_values": painted}
        sample = check_truth(Mistral3Adapter(), model, inputs, changed, {image: (0, y, x)})
    assert [view.grid for view in sample.views] == [(1, *grid) for grid in grids]


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
