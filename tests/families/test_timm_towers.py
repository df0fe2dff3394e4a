"""Contracts of families whose tower is timm's, where it is installed: Perception LM and FastVLM."""

import pytest
import torch
from rows import check_square, check_truth, left_padded, picture_rows, row_ids, video_rows
from tiles import cut, smooth
from tiny import TEXT, seeded
from torch.nn import functional
from transformers import (
    FastVlmConfig,
    FastVlmForConditionalGeneration,
    LlamaConfig,
    PerceptionLMConfig,
    PerceptionLMForConditionalGeneration,
    Qwen2Config,
    TimmWrapperConfig,
)

from lightkv.adapters.families.fast_vlm import FastVLMAdapter
from lightkv.adapters.families.perception_lm import PerceptionLMAdapter
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.core.errors import LayoutError
from lightkv.testing import AdapterSuite, Prompt
from lightkv.testing.adapters import MIXED
from lightkv.testing.truth import points

pytest.importorskip("timm", reason="cannot: timm is not installed")

IMAGE, VIDEO, SIDE, TILE = 5, 6, 2, 56
"""Tokens and pixels along the side of a tile: patches of 14 pixels, pooled 2 × 2."""


def tiles_of(rows, columns, generator):
    """A thumbnail, then the tiles, of 56 pixels."""
    tiles = cut(smooth(rows, columns, generator), rows, columns).roll(1, dims=0)
    return functional.interpolate(tiles, (TILE, TILE), mode="nearest")


class TestPerceptionLM(AdapterSuite):
    """Every image is cut into 1 × 2 tiles."""

    def make_model(self, attn_implementation="sdpa", **options):
        tower = {
            "embed_dim": 32,
            "img_size": [TILE, TILE],
            "depth": 2,
            "num_heads": 2,
            "global_pool": "",
            "use_post_transformer_norm": False,
            "init_values": 0.1,
            "ref_feat_shape": [4, 4],
        }
        config = PerceptionLMConfig(
            text_config=LlamaConfig(**TEXT, attn_implementation=attn_implementation),
            vision_config=TimmWrapperConfig(
                architecture="vit_pe_core_large_patch14_336", model_args=tower
            ),
            vision_use_cls_token=True,
            image_token_id=IMAGE,
            video_token_id=VIDEO,
            projector_pooling_ratio=2,
        )
        return seeded(PerceptionLMForConditionalGeneration, config, **options)

    def make_inputs(self, model, prompts):
        rows, pixels = [], []
        for prompt in prompts:
            ids, generator = row_ids(prompt, [[IMAGE] * 3 * SIDE**2] * prompt.images)
            rows.append(ids)
            pixels += [tiles_of(1, 2, generator) for _ in range(prompt.images)]
        inputs = left_padded(rows)
        if pixels:
            inputs["pixel_values"] = torch.stack(pixels).to(model.dtype)
        return inputs


class Clips(TestPerceptionLM):
    def make_inputs(self, model, prompts):
        return video_rows(model, prompts, [VIDEO] * 3 * SIDE**2, 3, TILE)

    def vision_mask(self, model, inputs, prompts):
        return inputs["input_ids"] == VIDEO


def test_clips_dropping_equals_masking_and_a_batch_its_rows():
    suite = Clips()
    found, wanted = suite.drop_and_mask(suite.make_model(), MIXED, "random", eager=False)
    torch.testing.assert_close(found, wanted, atol=suite.exact, rtol=0)
    suite.test_batch_equals_single("sdpa", "lightkv")


@pytest.mark.parametrize("shape", [(2, 3), (3, 1), (1, 1)])
def test_layout_truth_of_perception_lm(shape):
    model, count = TestPerceptionLM().make_model(), 1 + shape[0] * shape[1]
    ids = torch.tensor([[20, *[IMAGE] * count * SIDE**2, 21]])
    pixels = tiles_of(*shape, torch.Generator().manual_seed(1))[None]
    inputs = {"input_ids": ids, "pixel_values": pixels}
    for number, tiles in ((0, (1, 1)), (1, shape)):
        rows, columns = (n * SIDE for n in tiles)
        for y, x in points(rows, columns):
            row, column = int(y * rows), int(x * columns)
            tile = number * (1 + row // SIDE * tiles[1] + column // SIDE)
            painted = {**inputs, "pixel_values": pixels.clone()}
            top, left = row % SIDE * 28, column % SIDE * 28
            painted["pixel_values"][0, tile, :, top : top + 28, left : left + 28] += 3.0
            adapter = PerceptionLMAdapter()
            if number == 0 and count > 2:
                # The thumbnail alone says how the tiles lie, so only one of its cells may change.
                painted["pixel_values"] = pixels + 0.3 * (painted["pixel_values"] - pixels)
            sample = check_truth(adapter, model, inputs, painted, {number: (0, y, x)})
    assert [view.grid[1:] for view in sample.views] == [(2, 2), (2 * shape[0], 2 * shape[1])]


def test_layout_truth_of_a_clip():
    model = Clips().make_model()
    inputs = Clips().make_inputs(model, MIXED[:1])
    for frame in range(3):
        for y, x in points(SIDE, SIDE):
            painted = {**inputs, "pixel_values_videos": inputs["pixel_values_videos"].clone()}
            top, left = int(y * SIDE) * 28, int(x * SIDE) * 28
            painted["pixel_values_videos"][0, frame, :, top : top + 28, left : left + 28] += 3.0
            check_truth(PerceptionLMAdapter(), model, inputs, painted, {0: (frame, y, x)})


def test_a_run_that_is_no_squares_is_refused():
    model = TestPerceptionLM().make_model()
    inputs = {
        "input_ids": torch.tensor([[IMAGE] * 10]),
        "pixel_values": torch.ones(1, 3, 3, 56, 56),
    }
    with pytest.raises(LayoutError, match="10 placeholders is not 3 squares"):
        PerceptionLMAdapter().layout(model, read_inputs(model.model, (), inputs))


class TestFastVLM(AdapterSuite):
    def make_model(self, attn_implementation="sdpa", **options):
        tower = {"inference_mode": True, "layers": [1] * 5, "embed_dims": [8, 8, 8, 32, 32]}
        config = FastVlmConfig(
            text_config=Qwen2Config(**TEXT, attn_implementation=attn_implementation),
            vision_config=TimmWrapperConfig(
                architecture="fastvit_mci3",
                do_pooling=True,
                global_pool="avg",
                hidden_size=64,
                model_args=tower,
            ),
            image_token_index=IMAGE,
        )
        model = seeded(FastVlmForConditionalGeneration, config, **options)
        for weight in model.model.vision_tower.parameters():
            # With the weights of a beginning nothing comes out of so many layers.
            if weight.dim() > 1:
                torch.nn.init.xavier_normal_(weight, gain=2.0)
        return model

    def make_inputs(self, model, prompts):
        return picture_rows(model, prompts, [IMAGE] * 16, 256)


def test_layout_truth_of_fast_vlm():
    model = TestFastVLM().make_model()
    check_square(FastVLMAdapter(), model, TestFastVLM().make_inputs(model, [Prompt()]), 4)
