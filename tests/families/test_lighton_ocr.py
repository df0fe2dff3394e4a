"""The contract of LightOnOCR: images of their own size, without breaks between their rows."""

import pytest
from rows import check_sizes, sized_rows
from tiny import TEXT, TOWER, seeded
from transformers import (
    LightOnOcrConfig,
    LightOnOcrForConditionalGeneration,
    PixtralVisionConfig,
    Qwen3Config,
)

from lightkv.adapters.families.mistral3 import Mistral3Adapter
from lightkv.testing import AdapterSuite

IMAGE, STEP = 5, 8


def write(rows, columns):
    return [IMAGE] * rows * columns


class TestLightOnOcr(AdapterSuite):
    def make_model(self, attn_implementation="sdpa", **options):
        config = LightOnOcrConfig(
            text_config=Qwen3Config(**TEXT, head_dim=16),
            vision_config=PixtralVisionConfig(**TOWER, image_size=64, patch_size=4),
            image_token_id=IMAGE,
            spatial_merge_size=2,
            attn_implementation=attn_implementation,
        )
        return seeded(LightOnOcrForConditionalGeneration, config, **options)

    def make_inputs(self, model, prompts):
        return sized_rows(model, prompts, [(4, 6), (5, 3)], STEP, write)


@pytest.mark.parametrize("image", [0, 1])
def test_layout_truth(image):
    model = TestLightOnOcr().make_model()
    check_sizes(Mistral3Adapter(), model, [(3, 7), (5, 2)], STEP, write, image)
    assert Mistral3Adapter().vision_modules(model) == [model.model.vision_encoder]
