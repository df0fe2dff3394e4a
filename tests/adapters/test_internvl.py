"""The contract of the InternVL adapter: tiles of a cut picture, then a thumbnail."""

import pytest
import torch
from rows import check_truth, left_padded, row_ids
from tiny import TEXT
from torch.nn import functional
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    Qwen2Config,
)

from lightkv.adapters.families.internvl import InternVLAdapter
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.adapters.pictures.tiles import arrangement
from lightkv.core.errors import LayoutError
from lightkv.testing import AdapterSuite, Prompt
from lightkv.testing.truth import points

IMAGE, SIDE, TILE = 5, 3, 48


def cut(picture, rows, columns):
    """The tiles of a picture `[3, rows · 48, columns · 48]` and a thumbnail of the whole."""
    tiles = picture.reshape(3, rows, TILE, columns, TILE).permute(1, 3, 0, 2, 4)
    small = functional.interpolate(picture[None], (TILE, TILE), mode="area")
    return torch.cat([tiles.reshape(-1, 3, TILE, TILE), small])


def smooth(rows, columns, generator):
    """A picture with large structures, as photographs have and noise has not."""
    seed = torch.randn(1, 3, rows * 4, columns * 4, generator=generator)
    size = (rows * TILE, columns * TILE)
    return functional.interpolate(seed, size, mode="bilinear")[0]


class TestInternVL(AdapterSuite):
    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        vision = InternVLVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=[TILE, TILE],
            patch_size=[8, 8],
        )
        config = InternVLConfig(
            vision_config=vision,
            text_config=Qwen2Config(**TEXT),
            image_token_id=IMAGE,
            image_seq_length=SIDE * SIDE,
            attn_implementation=attn_implementation,
        )
        torch.manual_seed(0)
        return InternVLForConditionalGeneration(config).to(dtype).eval()

    def make_inputs(self, model, prompts):
        """The first image of a prompt is cut into 1 × 2 tiles, others are one tile."""
        rows, pixels = [], []
        for prompt in prompts:
            counts = [3 if number == 0 else 1 for number in range(prompt.images)]
            ids, generator = row_ids(prompt, [[IMAGE] * (n * SIDE * SIDE) for n in counts])
            rows.append(ids)
            for count in counts:
                wide = count > 1
                tiles = cut(smooth(1, 2 if wide else 1, generator), 1, 2 if wide else 1)
                pixels.append(tiles if wide else tiles[:1])
        inputs = left_padded(rows)
        if pixels:
            inputs["pixel_values"] = torch.cat(pixels).to(model.dtype)
        return inputs

    def options(self, model, prompts):
        return {"adapter": InternVLAdapter()}


def inputs_of(picture, rows, columns):
    tiles = cut(picture, rows, columns)
    ids = torch.tensor([[7, *[IMAGE] * (len(tiles) * SIDE * SIDE), 8, 9]])
    return {"input_ids": ids, "pixel_values": tiles}


@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (3, 2), (1, 6)])
def test_layout_truth_with_six_tiles(rows, columns):
    model = TestInternVL().make_model()
    picture = smooth(rows, columns, torch.Generator().manual_seed(1))
    inputs = inputs_of(picture, rows, columns)
    for y, x in points(rows * SIDE, columns * SIDE):
        changed, size = picture.clone(), TILE // SIDE
        top, left = int(y * rows * SIDE) * size, int(x * columns * SIDE) * size
        changed[:, top : top + size, left : left + size] += 3.0
        # The thumbnail is left alone: this is about the tiles.
        painted = inputs_of(changed, rows, columns)
        painted["pixel_values"][-1] = inputs["pixel_values"][-1]
        sample = check_truth(InternVLAdapter(), model, inputs, painted, {0: (0, y, x)})
        assert [view.grid for view in sample.views] == [
            (1, rows * SIDE, columns * SIDE),
            (1, SIDE, SIDE),
        ]


@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (3, 2), (1, 6), (6, 1), (3, 4), (4, 3)])
def test_large_tiles_are_told_apart_by_small_copies(rows, columns):
    """Tiles of 448 pixels, which are pooled once before their arrangements are compared."""
    seed = torch.randn(1, 3, 4 * rows, 4 * columns, generator=torch.Generator().manual_seed(1))
    size = (rows * 448, columns * 448)
    whole = functional.interpolate(seed, size, mode="bilinear")[0]
    tiles = whole.reshape(3, rows, 448, columns, 448).permute(1, 3, 0, 2, 4).flatten(0, 1)
    thumbnail = functional.interpolate(whole[None], (448, 448), mode="area")[0]
    assert arrangement(tiles, thumbnail) == (rows, columns)


def test_layout_truth_of_the_thumbnail():
    model = TestInternVL().make_model()
    inputs = inputs_of(smooth(1, 2, torch.Generator().manual_seed(1)), 1, 2)
    for y, x in points(SIDE, SIDE):
        painted = {**inputs, "pixel_values": inputs["pixel_values"].clone()}
        top, left = int(y * SIDE) * 16, int(x * SIDE) * 16
        painted["pixel_values"][-1, :, top : top + 16, left : left + 16] += 3.0
        check_truth(InternVLAdapter(), model, inputs, painted, {1: (0, y, x)})


def test_video_frames_are_pictures_of_their_own():
    model = TestInternVL().make_model()
    ids = torch.tensor([[7, *[IMAGE] * 9, 8, *[IMAGE] * 9, 8, *[IMAGE] * 9, 9]])
    inputs = {"input_ids": ids, "pixel_values": torch.randn(3, 3, TILE, TILE)}
    layout = InternVLAdapter().layout(model, read_inputs(model.model, (), inputs))
    assert [view.image for view in layout.samples[0].views] == [0, 1, 2]


def test_a_run_that_is_no_multiple_of_a_tile_is_refused():
    model = TestInternVL().make_model()
    ids = torch.tensor([[7, *[IMAGE] * 10, 8]])
    inputs = {"input_ids": ids, "pixel_values": torch.randn(1, 3, TILE, TILE)}
    with pytest.raises(LayoutError, match="no multiple of 9"):
        InternVLAdapter().layout(model, read_inputs(model.model, (), inputs))


def test_beams_share_the_arrangement_of_their_prompt():
    """Rows repeat, their tiles do not: both prompts keep their own shape of cut."""
    model, suite = TestInternVL().make_model(), TestInternVL()
    prompts = (Prompt(2, 2, 3, seed=1), Prompt(2, 1, 3, seed=2))
    inputs = suite.make_inputs(model, prompts)
    repeated = {**inputs, "input_ids": inputs["input_ids"].repeat_interleave(3, dim=0)}
    repeated["attention_mask"] = inputs["attention_mask"].repeat_interleave(3, dim=0)
    layout = InternVLAdapter().layout(model, read_inputs(model.model, (), repeated))
    one, other = [(1, 3, 6), (1, 3, 3), (1, 3, 3)], [(1, 3, 6), (1, 3, 3)]
    assert [[v.grid for v in s.views] for s in layout.samples] == [one] * 3 + [other] * 3
