"""The contract of the InternVL adapter: tiles of a cut picture, then a thumbnail."""

import pytest
import torch
from tiles import TILE, check_tiles, tile_rows
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

IMAGE, SIDE = 5, 3


def write(rows, columns):
    """Ids of a picture of so many tiles."""
    tiles = rows * columns
    return [IMAGE] * ((tiles + (tiles > 1)) * SIDE * SIDE)


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
        return tile_rows(model, prompts, write)

    def options(self, model, prompts):
        return {"adapter": InternVLAdapter()}


@pytest.mark.parametrize("shape", [(2, 3), (3, 2), (1, 6)])
def test_layout_truth(shape):
    check_tiles(InternVLAdapter(), TestInternVL().make_model(), shape, SIDE, write)


@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (3, 2), (1, 6), (6, 1), (3, 4), (4, 3)])
def test_large_tiles_are_told_apart_by_small_copies(rows, columns):
    """Tiles of 448 pixels, which are pooled once before their arrangements are compared."""
    seed = torch.randn(1, 3, 4 * rows, 4 * columns, generator=torch.Generator().manual_seed(1))
    size = (rows * 448, columns * 448)
    whole = functional.interpolate(seed, size, mode="bilinear")[0]
    tiles = whole.reshape(3, rows, 448, columns, 448).permute(1, 3, 0, 2, 4).flatten(0, 1)
    thumbnail = functional.interpolate(whole[None], (448, 448), mode="area")[0]
    assert arrangement(tiles, thumbnail) == (rows, columns)


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
