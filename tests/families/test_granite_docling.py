"""The contract of Granite Docling 2: tiles of tags, features added after the first layers."""

import pytest
import torch
from releases import needs_class
from tiles import check_tiles, tile_rows
from tiny import TEXT, TOWER, seeded

from lightkv.adapters.families.granite_docling import GraniteDoclingAdapter
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.testing import AdapterSuite

GraniteDoclingConfig = needs_class("GraniteDoclingConfig")
GraniteDoclingForConditionalGeneration = needs_class("GraniteDoclingForConditionalGeneration")

IMAGE, AROUND, WHOLE, LINE, LINES, FIRST_TAG, SIDE = 5, 6, 7, 8, 9, 30, 3
MULTIPLIERS = {
    "embedding_multiplier": 1.0,
    "attention_multiplier": 0.25,
    "residual_multiplier": 1.0,
}


def write(rows, columns, side=SIDE):
    tile, ids = [IMAGE] * side * side, []
    for row in range(rows):
        for column in range(columns):
            ids += [AROUND, FIRST_TAG + 10 * row + column, *tile]
        ids += [LINE]
    if rows * columns > 1:
        ids = [*ids[:-1], LINES, AROUND, WHOLE, *tile, AROUND]
    return ids


class TestGraniteDocling(AdapterSuite):
    first_layer = 2
    schedule = (
        {"after_layer": 3, "ratio": 0.5, "windows": 2},
        {"after_layer": 5, "ratio": 0.5, "windows": 1},
    )

    def make_model(self, attn_implementation="sdpa", fine=False, **options):
        vision = {
            **TOWER,
            "image_size": 48,
            "patch_size": 8,
            "out_hidden_size": 64,
            "scale_factor": 2,
            "deepstack_visual_indexes": [0, 1],
            "use_fine_route": fine,
        }
        config = GraniteDoclingConfig(
            text_config={**TEXT, "num_hidden_layers": 8, **MULTIPLIERS},
            vision_config=vision,
            image_token_id=IMAGE,
            attn_implementation=attn_implementation,
        )
        return seeded(GraniteDoclingForConditionalGeneration, config, **options)

    def make_inputs(self, model, prompts):
        """Tiles of a row stand beside one another, filled up to the longest row."""
        inputs = tile_rows(model, prompts, write)
        if "pixel_values" in inputs:
            counts = [prompt.images + 2 * (prompt.images > 0) for prompt in prompts]
            inputs |= by_row(inputs["pixel_values"], counts)
        return inputs


def by_row(tiles, counts):
    """Pixels `[rows, most, …]` and their mask from the tiles of all rows."""
    pixels = tiles.new_zeros(len(counts), max(counts), *tiles.shape[1:])
    mask = torch.arange(max(counts))[None] < torch.tensor(counts)[:, None]
    pixels[mask] = tiles
    return {"pixel_values": pixels, "pixel_attention_mask": mask}


@pytest.mark.parametrize("shape", [(2, 3), (3, 1)])
def test_layout_truth(shape):
    check_tiles(
        GraniteDoclingAdapter(),
        TestGraniteDocling().make_model(),
        shape,
        SIDE,
        write,
        given=lambda tiles: by_row(tiles, [len(tiles)]),
    )


def test_layout_truth_of_the_fine_route():
    check_tiles(
        GraniteDoclingAdapter(),
        TestGraniteDocling().make_model(fine=True),
        (1, 2),
        2 * SIDE,
        lambda *shape: write(*shape, side=2 * SIDE),
        given=lambda tiles: {**by_row(tiles, [len(tiles)]), "tile_fine_mask": torch.tensor([True])},
    )


def test_pictures_that_are_not_cut_begin_a_new_one():
    model = TestGraniteDocling().make_model()
    ids = torch.tensor([[20, *write(2, 1), *write(1, 1), *write(1, 1), *write(1, 2), 21]])
    inputs = {"input_ids": ids, "pixel_values": torch.ones(1, 8, 3, 48, 48)}
    views = (
        GraniteDoclingAdapter().layout(model, read_inputs(model.model, (), inputs)).samples[0].views
    )
    found = [(view.image, view.grid[1:]) for view in views]
    assert found == [(0, (6, 3)), (0, (3, 3)), (1, (3, 3)), (2, (3, 3)), (3, (3, 6)), (3, (3, 3))]
