"""The contract of the GLM-4.1V adapter: dynamic grids, videos in runs, multimodal rotary positions."""

import pytest
import torch
from releases import LATER_IMAGE
from rows import check_truth, grids_later, left_padded, row_ids
from tiny import TEXT
from transformers import Glm4vConfig, Glm4vForConditionalGeneration

import lightkv
from lightkv.adapters.families.glm4v import Glm4vAdapter
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.core.errors import ModelError
from lightkv.testing import AdapterSuite, Prompt
from lightkv.testing.truth import points

IMAGE, STAMP, PATCH, MERGE = 5, 11, 4, 2
SPECIAL = ("image_start", "image_end", "video_start", "video_end", "video")
ROPE = {
    "rope_type": "default",
    "rope_theta": 1e4,
    "partial_rotary_factor": 0.5,
    "mrope_section": [1, 1, 2],
}


def tiny(attn_implementation="sdpa", dtype=torch.float32):
    config = Glm4vConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "image_size": 32,
            "patch_size": PATCH,
            "out_hidden_size": 64,
            "spatial_merge_size": MERGE,
        },
        # Larger weights: positions of tokens have to matter for what the contract measures.
        text_config={**TEXT, "rope_parameters": ROPE, "initializer_range": 0.06},
        image_token_id=IMAGE,
        **{f"{name}_token_id": 12 + number for number, name in enumerate(SPECIAL)},
        attn_implementation=attn_implementation,
    )
    torch.manual_seed(0)
    return Glm4vForConditionalGeneration(config).to(dtype).eval()


def pixels_of(grid, generator):
    """Patches of a grid (frames, rows, columns), flattened as the processor does."""
    frames, rows, columns = grid
    return torch.randn(frames * rows * columns, 3 * 2 * PATCH * PATCH, generator=generator)


def run_of(grid):
    return [IMAGE] * (grid[1] * grid[2] // MERGE**2)


class TestImages(AdapterSuite):
    """Grids of 3 × 5 and 2 × 4 tokens."""

    cannot = LATER_IMAGE
    grids = ((1, 6, 10), (1, 4, 8))
    kind, keys = 1, ("pixel_values", "image_grid_thw")
    # transformers repeats the images of a row one by one, [A, A, B, B], and the ids as [A, B, A, B].
    beam_prompts = (Prompt(2, 1, 3, seed=1), Prompt(5, 1, 6, seed=2))

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        return tiny(attn_implementation, dtype)

    def block(self, grid):
        return ([*run_of(grid), STAMP] * grid[0])[:-1]

    def make_inputs(self, model, prompts):
        rows, pixels, grids = [], [], []
        for prompt in prompts:
            own = self.grids[: prompt.images]
            ids, generator = row_ids(prompt, [self.block(grid) for grid in own])
            rows.append(ids)
            pixels += [pixels_of(grid, generator) for grid in own]
            grids += own
        inputs = left_padded(rows)
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).long() * self.kind
        if grids:
            inputs[self.keys[0]] = torch.cat(pixels).to(model.dtype)
            inputs[self.keys[1]] = torch.tensor(grids)
        return inputs

    def options(self, model, prompts):
        return {"adapter": Glm4vAdapter()}

    def extended(self, model, inputs, tokens):
        whole = super().extended(model, inputs, tokens)
        types = inputs["mm_token_type_ids"]
        return {**whole, "mm_token_type_ids": torch.cat([types, torch.zeros_like(tokens)], dim=1)}

    def later_call(self, model, whole, later):
        return grids_later(model, whole, later)


class TestVideos(TestImages):
    """Two temporal patches, a time stamp between them."""

    grids = ((2, 4, 6), (2, 4, 4))
    kind, keys = 2, ("pixel_values_videos", "video_grid_thw")
    cannot = LATER_IMAGE | dict.fromkeys(
        ("beams", "sampling"),
        "it looks for video_token_id to repeat the features, but videos have image placeholders",
    )


def two(kind):
    """Two images of different shapes, or a video of three temporal patches and one of two."""
    suite = kind()
    suite.grids = ((1, 4, 14), (1, 8, 4)) if kind is TestImages else ((3, 8, 4), (2, 4, 6))
    return suite.make_inputs(tiny(), [Prompt(2, 2, 3, seed=1)])


@pytest.mark.parametrize(
    ("kind", "view", "frame", "grid", "first"),
    [
        (TestImages, 0, 0, (2, 7), 0),
        (TestImages, 1, 0, (4, 2), 14),
        (TestVideos, 0, 0, (4, 2), 0),
        (TestVideos, 0, 2, (4, 2), 16),
        (TestVideos, 1, 1, (2, 3), 30),
    ],
)
def test_layout_truth(kind, view, frame, grid, first):
    model, inputs, key = tiny(), two(kind), kind.keys[0]
    for y, x in points(*grid):
        painted = inputs[key].clone()
        # Patches come grouped in blocks of merge × merge, blocks in raster order.
        cell = first + int(y * grid[0]) * grid[1] + int(x * grid[1])
        painted[cell * MERGE**2 : (cell + 1) * MERGE**2] += 3.0
        changed = {**inputs, key: painted}
        sample = check_truth(Glm4vAdapter(), model, inputs, changed, {view: (frame, y, x)})
    assert [v.image for v in sample.views] == [0, 1]


def test_types_tell_images_from_videos():
    """transformers cannot run both in one pass yet; the layout is ready for it."""
    images, videos = two(TestImages), two(TestVideos)
    both = {**images, **videos}
    for key in ("input_ids", "mm_token_type_ids", "attention_mask"):
        both[key] = torch.cat([images[key], videos[key]], dim=1)
    model = tiny()
    layout = Glm4vAdapter().layout(model, read_inputs(model.model, (), both))
    grids = [view.grid for view in layout.samples[0].views]
    assert grids == [(1, 2, 7), (1, 4, 2), (3, 4, 2), (2, 2, 3)]


def test_missing_token_types_are_named():
    model, inputs = tiny(), two(TestImages)
    del inputs["mm_token_type_ids"]
    with (
        pytest.raises(ModelError, match="mm_token_type_ids"),
        lightkv.compress(model, "fastv", adapter=Glm4vAdapter()),
    ):
        TestImages().generate(model, inputs)
