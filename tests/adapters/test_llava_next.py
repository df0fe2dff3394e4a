"""The contract of the LLaVA-NeXT adapter, and the truth of its any-resolution layout."""

import numpy as np
import pytest
import torch
from rows import left_padded, row_ids
from tiny import tiny_llava_next

from lightkv.adapters.families.llava_next import LlavaNextAdapter
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.adapters.pictures.any_resolution import unpadded_grid
from lightkv.testing import AdapterSuite

IMAGE, TILE, SIDE = 5, 48, 6
PINPOINTS = [[48, 96], [96, 48], [96, 96]]
SIZES = [(48, 96), (100, 40), (70, 96), (33, 100)]
"""(height, width) of pictures: wide, tall, nearly square, very wide."""


def picture_of(prompt, number):
    generator = torch.Generator().manual_seed(100 * prompt.seed + number)
    size = SIZES[(prompt.seed + number) % len(SIZES)]
    rows, columns = tile_grid(size)
    return size, torch.randn(1 + rows * columns, 3, TILE, TILE, generator=generator)


def tile_grid(size):
    from transformers.image_processing_utils import select_best_resolution

    height, width = select_best_resolution(size, PINPOINTS)
    return height // TILE, width // TILE


def tokens_of(size):
    rows, columns = unpadded_grid(size, tile_grid(size), SIDE)
    return SIDE * SIDE + rows * (columns + 1)


class TestLlavaNext(AdapterSuite):
    class_token = True

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        return tiny_llava_next(attn_implementation, dtype)

    def options(self, model, prompts):
        return {"adapter": LlavaNextAdapter()}

    def make_inputs(self, model, prompts):
        rows, pictures = [], []
        for prompt in prompts:
            own = [picture_of(prompt, number) for number in range(prompt.images)]
            blocks = [[IMAGE] * tokens_of(size) for size, _ in own]
            rows.append(row_ids(prompt, blocks, apart=False)[0])
            pictures += own
        inputs = left_padded(rows)
        if pictures:
            most = max(tiles.shape[0] for _, tiles in pictures)
            pixels = torch.zeros(len(pictures), most, 3, TILE, TILE)
            for number, (_, tiles) in enumerate(pictures):
                pixels[number, : tiles.shape[0]] = tiles
            inputs["pixel_values"] = pixels.to(model.dtype)
            inputs["image_sizes"] = torch.tensor([size for size, _ in pictures])
        return inputs


@pytest.mark.parametrize("size", SIZES)
def test_token_counts_are_the_models_own(size):
    model = tiny_llava_next()
    rows, columns = tile_grid(size)
    pixels = torch.randn(1, 1 + rows * columns, 3, TILE, TILE)
    with torch.no_grad():
        features = model.get_image_features(pixels, torch.tensor([size])).pooler_output
    assert features[0].shape[0] == tokens_of(size)


@pytest.mark.parametrize("size", [(48, 96), (100, 40), (33, 100)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_painted_patch_moves_the_token_of_its_cell(size, seed):
    """Paint one patch of a tile of a picture that is not square."""
    model = tiny_llava_next()
    rows, columns = tile_grid(size)
    rng = np.random.default_rng(seed)
    pixels = torch.randn(1, 1 + rows * columns, 3, TILE, TILE)
    grid = unpadded_grid(size, tile_grid(size), SIDE)
    cut = [(full * SIDE - used) // 2 for full, used in zip((rows, columns), grid, strict=True)]
    row, column = int(rng.integers(grid[0])), int(rng.integers(grid[1]))
    (tile_row, y), (tile_column, x) = divmod(row + cut[0], SIDE), divmod(column + cut[1], SIDE)
    painted = pixels.clone()
    patch = (slice(8 * y, 8 * y + 8), slice(8 * x, 8 * x + 8))
    painted[0, 1 + tile_row * columns + tile_column, :, patch[0], patch[1]] += 8
    with torch.no_grad():
        before, after = (
            model.get_image_features(p, torch.tensor([size])).pooler_output[0]
            for p in (pixels, painted)
        )
    moved = int((after - before).norm(dim=-1).argmax())
    ids = torch.tensor([[7, *[IMAGE] * tokens_of(size), 8]])
    arguments = {"input_ids": ids, "pixel_values": pixels, "image_sizes": torch.tensor([size])}
    layout = LlavaNextAdapter().layout(model, read_inputs(model.model, (), arguments))
    view = layout.samples[0].views[1]
    place = int(np.flatnonzero(view.positions == 1 + moved)[0])
    assert view.grid == (1, *grid)
    assert view.coordinates[place].tolist() == [0, row, column]
