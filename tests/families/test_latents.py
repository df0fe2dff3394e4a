"""Contracts of families whose image tokens are latents that stand nowhere in the image: strips."""

import pytest
import torch
from releases import PLAIN_BEAMS
from rows import left_padded, picture_rows, row_ids
from tiny import TEXT, TOWER, seeded
from transformers import (
    AriaConfig,
    AriaForConditionalGeneration,
    AriaTextConfig,
    DeepseekOcr2Config,
    DeepseekOcr2ForConditionalGeneration,
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    Idefics3VisionConfig,
    MistralConfig,
)

from lightkv.adapters.families.aria import AriaAdapter
from lightkv.adapters.families.deepseek_ocr2 import DeepseekOcr2Adapter
from lightkv.adapters.families.idefics2 import Idefics2Adapter
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.core.errors import LayoutError
from lightkv.testing import AdapterSuite, Prompt
from lightkv.testing.truth import decoder_inputs, moved

IMAGE = 5


class TestAria(AdapterSuite):
    cannot = PLAIN_BEAMS

    def make_model(self, attn_implementation="sdpa", **options):
        text = {**TEXT, "moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1}
        config = AriaConfig(
            text_config=AriaTextConfig(**{**text, "intermediate_size": 32}),
            vision_config=Idefics3VisionConfig(**TOWER, image_size=48, patch_size=8),
            projector_patch_to_query_dict={36: 16},
            image_token_index=IMAGE,
            attn_implementation=attn_implementation,
        )
        model = seeded(AriaForConditionalGeneration, config, **options)
        # Its queries are zero at first, and all latents would be the same.
        torch.nn.init.normal_(model.model.multi_modal_projector.query)
        return model

    def make_inputs(self, model, prompts):
        inputs = picture_rows(model, prompts, [IMAGE] * 16, 48)
        if "pixel_values" in inputs:
            shape = len(inputs["pixel_values"]), 48, 48
            inputs["pixel_mask"] = torch.ones(shape, dtype=torch.bool)
        return inputs


class TestIdefics2(AdapterSuite):
    def make_model(self, attn_implementation="sdpa", **options):
        latents = {
            "hidden_size": 64,
            "resampler_n_latents": 12,
            "resampler_depth": 1,
            "resampler_n_heads": 2,
            "resampler_head_dim": 16,
            "num_key_value_heads": 2,
        }
        config = Idefics2Config(
            text_config=MistralConfig(**TEXT, sliding_window=None),
            vision_config={**TOWER, "image_size": 48, "patch_size": 8},
            perceiver_config=latents,
            image_token_id=IMAGE,
            attn_implementation=attn_implementation,
        )
        model = seeded(Idefics2ForConditionalGeneration, config, **options)
        torch.nn.init.normal_(model.model.connector.perceiver_resampler.latents)
        return model

    def make_inputs(self, model, prompts):
        """Images of a row stand beside one another, filled up with zeros, which are no images."""
        inputs = picture_rows(model, prompts, [IMAGE] * 12, 48)
        if "pixel_values" in inputs:
            most = max(prompt.images for prompt in prompts)
            pixels = inputs["pixel_values"].new_zeros(len(prompts), most, 3, 48, 48)
            flat = iter(inputs["pixel_values"])
            for row, prompt in enumerate(prompts):
                for number in range(prompt.images):
                    pixels[row, number] = next(flat)
            inputs["pixel_values"] = pixels
            mask = torch.ones(len(prompts), most, 48, 48, dtype=torch.bool)
            inputs["pixel_attention_mask"] = mask
        return inputs


class TestDeepseekOcr2(AdapterSuite):
    """The first page of a prompt has a crop, others have none."""

    def make_model(self, attn_implementation="sdpa", **options):
        text = {
            **TEXT,
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "mlp_layer_types": ["dense"] + ["sparse"] * 5,
            "n_group": 1,
            "topk_group": 1,
        }
        sam = {
            **TOWER,
            "output_channels": 16,
            "image_size": 64,
            "patch_size": 4,
            "window_size": 4,
            "global_attn_indexes": [1],
            "mlp_dim": 48,
            "downsample_channels": [24, 32],
            "initializer_range": 0.02,
        }
        reader = {**TOWER, "num_key_value_heads": 2, "max_position_embeddings": 512}
        config = DeepseekOcr2Config(
            text_config=text,
            vision_config={"sam_config": sam, "encoder_config": reader},
            image_token_id=IMAGE,
            attn_implementation=attn_implementation,
        )
        return seeded(DeepseekOcr2ForConditionalGeneration, config, **options)

    def make_inputs(self, model, prompts):
        rows, pages, crops, counts = [], [], [], []
        for prompt in prompts:
            own = [1, 0][: prompt.images]
            ids, generator = row_ids(prompt, [[IMAGE] * (144 * count + 145) for count in own])
            rows.append(ids)
            pages.append(torch.randn(prompt.images, 3, 64, 64, generator=generator))
            crops.append(torch.randn(sum(own), 3, 48, 48, generator=generator))
            counts += own
        inputs = left_padded(rows)
        if counts:
            inputs["pixel_values"] = torch.cat(pages).to(model.dtype)
            inputs["pixel_values_local"] = torch.cat(crops).to(model.dtype)
            inputs["num_local_patches"] = torch.tensor(counts)
        return inputs


FAMILIES = pytest.mark.parametrize(
    ("suite", "adapter", "strips"),
    [
        (TestAria(), AriaAdapter(), [16]),
        (TestIdefics2(), Idefics2Adapter(), [12]),
        (TestDeepseekOcr2(), DeepseekOcr2Adapter(), [144, 144]),
    ],
    ids=["aria", "idefics2", "deepseek_ocr2"],
)


@FAMILIES
def test_any_place_of_the_image_moves_every_latent(suite, adapter, strips):
    """So there is no geometry to find, and the layout tells of none."""
    model = suite.make_model()
    inputs = suite.make_inputs(model, [Prompt()])
    layout = adapter.layout(model, read_inputs(model.model, (), inputs))
    assert adapter.geometry == "strip"
    assert [view.grid for view in layout.samples[0].views] == [(1, 1, n) for n in strips]
    before = decoder_inputs(model, model.get_decoder(), inputs)[0]
    for y, x in ((0, 0), (0, 32), (32, 16)):
        painted = inputs["pixel_values"].clone()
        painted[..., y : y + 8, x : x + 8] += 3.0
        after = decoder_inputs(model, model.get_decoder(), {**inputs, "pixel_values": painted})[0]
        view = layout.samples[0].views[-1]
        shown = view.positions[view.cells >= 0]
        assert float(moved(before, after)[torch.as_tensor(shown)].min()) > 1e-4


def test_the_separator_of_a_page_is_no_latent():
    suite = TestDeepseekOcr2()
    model = suite.make_model()
    inputs = suite.make_inputs(model, [Prompt()])
    layout = DeepseekOcr2Adapter().layout(model, read_inputs(model.model, (), inputs))
    at = int(layout.samples[0].views[-1].positions[-1])
    found = decoder_inputs(model, model.get_decoder(), inputs)[0, at]
    assert torch.equal(found, model.model.view_separator)


@FAMILIES
def test_a_wrong_number_of_placeholders_is_refused(suite, adapter, strips):
    model = suite.make_model()
    inputs = suite.make_inputs(model, [Prompt()])
    ids = inputs["input_ids"][:, :-6]
    with pytest.raises(LayoutError, match="placeholders"):
        adapter.layout(model, read_inputs(model.model, (), {**inputs, "input_ids": ids}))
