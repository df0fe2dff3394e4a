"""The contract of the ViP-LLaVA adapter, on a tiny CLIP + Llama with random weights."""

import pytest
import torch
from rows import picture_rows
from tiny import TEXT, clip
from transformers import (
    LlamaConfig,
    SiglipVisionConfig,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

from lightkv.adapters.families.vipllava import VipLlavaAdapter
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.core.errors import LayoutError, ModelError
from lightkv.testing import AdapterSuite

IMAGE, SIDE = 5, 6


def tiny_vipllava(attn_implementation="sdpa", dtype=torch.float32, vision=None):
    config = VipLlavaConfig(
        vision_config=vision or clip(),
        text_config=LlamaConfig(**TEXT),
        image_token_id=IMAGE,
        vision_feature_layers=[-2, -3, 2],
        attn_implementation=attn_implementation,
    )
    torch.manual_seed(0)
    return VipLlavaForConditionalGeneration(config).to(dtype).eval()


class TestVipLlava(AdapterSuite):
    class_token = True

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        return tiny_vipllava(attn_implementation, dtype)

    def make_inputs(self, model, prompts):
        return picture_rows(model, prompts, [IMAGE] * SIDE * SIDE, 48)


def test_the_tiny_model_has_features_of_several_layers():
    model = tiny_vipllava()
    assert model.model.multi_modal_projector.linear_1.in_features == 3 * 32


def test_a_wrong_number_of_placeholders_is_refused():
    model = tiny_vipllava()
    inputs = {"input_ids": torch.tensor([[7, *[IMAGE] * 35, 8]]), "pixel_values": torch.ones(1)}
    with pytest.raises(LayoutError, match="35 image placeholders, but each image takes 36"):
        VipLlavaAdapter().layout(model, read_inputs(model.model, (), inputs))


def test_a_tower_without_a_class_token_is_refused():
    """The model drops the first token of each image, which would be a patch."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    vision = SiglipVisionConfig(
        **sizes, num_attention_heads=2, image_size=48, patch_size=8, vision_use_head=False
    )
    model = tiny_vipllava(vision=vision)
    ids = torch.tensor([[7, *[IMAGE] * 35, 8]])
    inputs = {"input_ids": ids, "pixel_values": torch.randn(1, 3, 48, 48)}
    model(**inputs)
    with pytest.raises(ModelError, match="loses a patch"):
        VipLlavaAdapter().layout(model, read_inputs(model.model, (), inputs))
