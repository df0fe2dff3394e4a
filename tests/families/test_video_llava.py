"""The contract of the Video-LLaVA adapter: images, and frames that start with a class token."""

import torch
from releases import pixels_of
from rows import check_truth, video_rows
from tiny import TEXT, clip
from transformers import (
    LlamaConfig,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
)

from lightkv.adapters.families.video_llava import VideoLlavaAdapter
from lightkv.testing import AdapterSuite
from lightkv.testing.truth import points

IMAGE, VIDEO, SIDE, PATCH, FRAMES = 5, 6, 4, 8, 3
SIZE = SIDE * PATCH
PIXELS = pixels_of("pixel_values_images")


def tiny(attn_implementation="sdpa", dtype=torch.float32):
    config = VideoLlavaConfig(
        vision_config=clip(SIZE),
        text_config=LlamaConfig(**TEXT),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        attn_implementation=attn_implementation,
    )
    torch.manual_seed(0)
    return VideoLlavaForConditionalGeneration(config).to(dtype).eval()


class TestVideos(AdapterSuite):
    class_token = True

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        return tiny(attn_implementation, dtype)

    def make_inputs(self, model, prompts):
        return video_rows(model, prompts, [VIDEO] * FRAMES * (SIDE**2 + 1), FRAMES, SIZE)

    def vision_mask(self, model, inputs, prompts):
        return inputs["input_ids"] == VIDEO

    def options(self, model, prompts):
        return {"adapter": VideoLlavaAdapter()}


def both():
    """A video, then an image."""
    generator = torch.Generator().manual_seed(1)
    video = [VIDEO] * FRAMES * (SIDE**2 + 1)
    return {
        "input_ids": torch.tensor([[50, *video, 51, *[IMAGE] * SIDE**2, 52]]),
        PIXELS: torch.randn(1, 3, SIZE, SIZE, generator=generator),
        "pixel_values_videos": torch.randn(1, FRAMES, 3, SIZE, SIZE, generator=generator),
    }


def test_layout_truth_of_an_image_and_a_video():
    model, inputs = tiny(), both()
    for number, (y, x) in enumerate(points(SIDE, SIDE)):
        top, left = int(y * SIDE) * PATCH, int(x * SIDE) * PATCH
        image, video = inputs[PIXELS].clone(), inputs["pixel_values_videos"].clone()
        image[0, :, top : top + PATCH, left : left + PATCH] += 3.0
        sample = check_truth(
            VideoLlavaAdapter(), model, inputs, {**inputs, PIXELS: image}, {1: (0, y, x)}
        )
        frame = number % FRAMES
        video[0, frame, :, top : top + PATCH, left : left + PATCH] += 3.0
        changed = {**inputs, "pixel_values_videos": video}
        check_truth(VideoLlavaAdapter(), model, inputs, changed, {0: (frame, y, x)})
    assert [view.grid for view in sample.views] == [(FRAMES, SIDE, SIDE), (1, SIDE, SIDE)]
    assert int((sample.views[0].cells < 0).sum()) == FRAMES


def test_images_and_videos_of_one_prompt_are_both_compressed():
    model, suite = tiny(), TestVideos()
    with suite.session(model, ()) as session:
        suite.generate(model, both())
    assert session.last.samples[0].original == FRAMES * (SIDE**2 + 1) + SIDE**2
    assert session.last.retention < 1.0
