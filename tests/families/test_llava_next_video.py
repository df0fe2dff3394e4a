"""The contract of the LLaVA-NeXT-Video adapter: any-resolution images, pooled frames."""

import torch
from releases import VIDEO_BEAMS
from rows import check_truth, video_rows
from tiny import TEXT, clip
from transformers import (
    LlamaConfig,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
)

from lightkv.adapters.families.llava_next_video import LlavaNextVideoAdapter
from lightkv.testing import AdapterSuite
from lightkv.testing.truth import points

IMAGE, VIDEO, TILE, PATCH, FRAMES, POOLED = 5, 6, 48, 8, 4, 3
WIDE = (30, 96)
"""An image whose 6 × 12 canvas shows 4 × 12 cells, one row of padding each side."""


def tiny(attn_implementation="sdpa", dtype=torch.float32):
    config = LlavaNextVideoConfig(
        vision_config=clip(TILE),
        text_config=LlamaConfig(**TEXT),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_grid_pinpoints=[[48, 96], [96, 48], [96, 96]],
        attn_implementation=attn_implementation,
    )
    torch.manual_seed(0)
    return LlavaNextVideoForConditionalGeneration(config).to(dtype).eval()


class TestVideos(AdapterSuite):
    class_token = True
    cannot = VIDEO_BEAMS

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        return tiny(attn_implementation, dtype)

    def make_inputs(self, model, prompts):
        return video_rows(model, prompts, [VIDEO] * FRAMES * POOLED**2, FRAMES, TILE)

    def vision_mask(self, model, inputs, prompts):
        return inputs["input_ids"] == VIDEO

    def options(self, model, prompts):
        return {"adapter": LlavaNextVideoAdapter()}


def both():
    """An image of 36 + 4 · 13 tokens, then a video."""
    generator = torch.Generator().manual_seed(1)
    video = [VIDEO] * FRAMES * POOLED**2
    return {
        "input_ids": torch.tensor([[50, *[IMAGE] * 88, 51, *video, 52]]),
        "pixel_values": torch.randn(1, 3, 3, TILE, TILE, generator=generator),
        "image_sizes": torch.tensor([WIDE]),
        "pixel_values_videos": torch.randn(1, FRAMES, 3, TILE, TILE, generator=generator),
    }


def test_layout_truth_of_a_video():
    model, inputs, size = tiny(), both(), 2 * PATCH
    for number, (y, x) in enumerate(points(POOLED, POOLED)):
        frame, video = number % FRAMES, inputs["pixel_values_videos"].clone()
        top, left = int(y * POOLED) * size, int(x * POOLED) * size
        video[0, frame, :, top : top + size, left : left + size] += 3.0
        changed = {**inputs, "pixel_values_videos": video}
        sample = check_truth(LlavaNextVideoAdapter(), model, inputs, changed, {2: (frame, y, x)})
    assert sample.views[2].grid == (FRAMES, POOLED, POOLED)


def test_layout_truth_of_an_image_that_is_not_square():
    model, inputs = tiny(), both()
    for y, x in points(4, 12):
        row, column, pixels = 1 + int(y * 4), int(x * 12), inputs["pixel_values"].clone()
        top, left = row * PATCH, column % 6 * PATCH
        pixels[0, 1 + column // 6, :, top : top + PATCH, left : left + PATCH] += 3.0
        changed = {**inputs, "pixel_values": pixels}
        sample = check_truth(LlavaNextVideoAdapter(), model, inputs, changed, {1: (0, y, x)})
    assert [view.grid for view in sample.views[:2]] == [(1, 6, 6), (1, 4, 12)]


def test_images_and_videos_of_one_prompt_are_both_compressed():
    model, suite = tiny(), TestVideos()
    with suite.session(model, ()) as session:
        suite.generate(model, both())
    assert session.last.samples[0].original == 88 + FRAMES * POOLED**2
    assert session.last.retention < 1.0
