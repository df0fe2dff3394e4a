"""The contract of the LLaVA-OneVision adapter: any-resolution images, several images, videos."""

import pytest
import torch
from rows import check_truth, left_padded, row_ids, video_rows
from tiny import TEXT
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from lightkv.adapters.families.llava_onevision import LlavaOnevisionAdapter
from lightkv.testing import AdapterSuite, Prompt
from lightkv.testing.truth import points

IMAGE, VIDEO, TILE, PATCH, SIDE = 5, 6, 48, 8, 6
PINPOINTS = [[48, 96], [96, 48], [96, 96], [48, 144]]
WIDE, TALL = (30, 96), (96, 33)
"""Height and width of images whose canvas has a row, or column, of padding on each side.

The canvas of 6 × 12 shows 4 × 12 cells, and that of 12 × 6 shows 12 × 4.
"""


def tiny(attn_implementation="sdpa", dtype=torch.float32, limit=9):
    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=TILE,
        patch_size=PATCH,
        vision_use_head=False,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=Qwen2Config(**TEXT),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_grid_pinpoints=PINPOINTS,
        vision_aspect_ratio=f"anyres_max_{limit}",
        attn_implementation=attn_implementation,
    )
    torch.manual_seed(0)
    return LlavaOnevisionForConditionalGeneration(config).to(dtype).eval()


class TestImages(AdapterSuite):
    """A wide or a tall image in prompts with one, base views in prompts with more."""

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        return tiny(attn_implementation, dtype)

    def make_inputs(self, model, prompts):
        rows, pixels, counts, sizes = [], [], [], []
        for prompt in prompts:
            size, tokens = [(WIDE, 4 * 13), (TALL, 12 * 5)][prompt.seed % 2 == 0]
            tokens = SIDE * SIDE + (tokens if prompt.images == 1 else 1)
            sizes += [size] * prompt.images
            ids, generator = row_ids(prompt, [[IMAGE] * tokens] * prompt.images)
            rows.append(ids)
            pixels.append(torch.randn(prompt.images, 3, 3, TILE, TILE, generator=generator))
            counts.append(prompt.images)
        inputs = left_padded(rows)
        if sum(counts):
            inputs["pixel_values"] = torch.cat(pixels).to(model.dtype)
            inputs["image_sizes"] = torch.tensor(sizes)
            inputs["batch_num_images"] = torch.tensor(counts)
        return inputs

    def options(self, model, prompts):
        return {"adapter": LlavaOnevisionAdapter()}


class TestVideos(TestImages):
    """The same contract with videos of two frames."""

    def make_inputs(self, model, prompts):
        return video_rows(model, prompts, [VIDEO] * (2 * 9 + 1), 2, TILE)

    def vision_mask(self, model, inputs, prompts):
        return inputs["input_ids"] == VIDEO


def split(canvas):
    """Tiles `[n, 3, 48, 48]` of a canvas in raster order."""
    rows, columns = canvas.shape[1] // TILE, canvas.shape[2] // TILE
    tiles = canvas.reshape(3, rows, TILE, columns, TILE).permute(1, 3, 0, 2, 4)
    return tiles.reshape(-1, 3, TILE, TILE)


def inputs_of(canvas, size, tokens):
    tiles = torch.cat([torch.zeros(1, 3, TILE, TILE), split(canvas)])
    ids = torch.tensor([[7, *[IMAGE] * tokens, 8, 9]])
    return {"input_ids": ids, "pixel_values": tiles[None], "image_sizes": torch.tensor([size])}


def with_paint(canvas, row, column):
    out = canvas.clone()
    out[:, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] += 3.0
    return out


@pytest.mark.parametrize(
    ("size", "canvas", "grid", "pad"),
    [
        (WIDE, (6, 12), (4, 12), (1, 0)),
        (TALL, (12, 6), (12, 4), (0, 1)),
        ((96, 95), (12, 12), (12, 12), (0, 0)),
        ((47, 140), (6, 18), (6, 18), (0, 0)),
    ],
)
def test_layout_truth(size, canvas, grid, pad):
    model, generator = tiny(), torch.Generator().manual_seed(1)
    pixels = torch.randn(3, canvas[0] * PATCH, canvas[1] * PATCH, generator=generator)
    tokens = SIDE * SIDE + grid[0] * (grid[1] + 1)
    for y, x in points(*grid):
        row, column = int(y * grid[0]) + pad[0], int(x * grid[1]) + pad[1]
        one, other = (inputs_of(p, size, tokens) for p in (pixels, with_paint(pixels, row, column)))
        sample = check_truth(LlavaOnevisionAdapter(), model, one, other, {1: (0, y, x)})
        assert sample.views[1].grid == (1, *grid)


def test_layout_truth_of_a_grid_that_is_resized():
    model, pixels = (
        tiny(limit=2),
        torch.randn(3, 96, 96, generator=torch.Generator().manual_seed(1)),
    )
    for y, x in points(8, 8):
        painted = with_paint(pixels, int(y * 12), int(x * 12))
        one, other = (inputs_of(p, (96, 96), 36 + 8 * 9) for p in (pixels, painted))
        sample = check_truth(LlavaOnevisionAdapter(), model, one, other, {1: (0, y, x)})
        assert sample.views[1].grid == (1, 8, 8)


def test_layout_truth_of_video_frames():
    model, generator = tiny(), torch.Generator().manual_seed(1)
    ids = torch.tensor([[7, *[VIDEO] * (3 * 9 + 1), 8, 9]])
    video = torch.randn(1, 3, 3, TILE, TILE, generator=generator)
    inputs = {"input_ids": ids, "pixel_values_videos": video}
    for frame, (y, x) in enumerate(list(points(3, 3))[:3]):
        painted, size = video.clone(), 2 * PATCH
        top, left = int(y * 3) * size, int(x * 3) * size
        painted[0, frame, :, top : top + size, left : left + size] += 3.0
        changed = {**inputs, "pixel_values_videos": painted}
        check_truth(LlavaOnevisionAdapter(), model, inputs, changed, {0: (frame, y, x)})


def test_a_forward_pass_does_not_inherit_what_an_earlier_generation_was_given():
    """Two base views in the first run; in the second, nothing is said and the image is alone."""
    suite, model = TestImages(), tiny()
    wide = inputs_of(torch.randn(3, 48, 96), WIDE, SIDE * SIDE + 4 * 13)
    with suite.session(model, ()) as session:
        suite.generate(model, suite.make_inputs(model, [Prompt(2, 2, 3)]))
        model(**wide)
    assert [report.samples[0].original for report in session.reports] == [74, 88]
