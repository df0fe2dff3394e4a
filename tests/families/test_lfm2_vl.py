"""The contract of LFM2-VL: tiles and a thumbnail before short convolutions and attention."""

import pytest
import torch
from hybrids import FADES, Hybrid
from rows import check_truth, left_padded, row_ids
from tiny import TEXT
from transformers import (
    Lfm2Config,
    Lfm2VlConfig,
    Lfm2VlForConditionalGeneration,
    Siglip2VisionConfig,
)

from lightkv.adapters.families.lfm2_vl import Lfm2VLAdapter
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.testing import AdapterSuite, Prompt
from lightkv.testing.truth import points

IMAGE, TILE, OPEN, CLOSE = 5, 8, 7, 9
PLAIN, TILED = ((8, 12), None), ((8, 12), (2, 3))
"""Patches of the whole picture; rows and columns of tiles before it."""
WIDTH, MOST = 3 * 4 * 4, 8 * 12
"""Numbers of a patch, and the most patches of a crop."""


def crops_of(picture):
    """(rows, columns) of patches of each crop."""
    whole, cut = picture
    return [whole] if cut is None else [(TILE, TILE)] * (cut[0] * cut[1]) + [whole]


def block_of(picture, *, tagged=True):
    """Ids of a picture; the tag of each crop stands before it."""
    ids = [OPEN] if tagged else []
    crops = crops_of(picture)
    for number, (rows, columns) in enumerate(crops):
        ids += [30 + number] if tagged and len(crops) > 1 else []
        ids += [IMAGE] * (rows * columns // 4)
    return [*ids, CLOSE] if tagged else ids


def canvas_of(picture, generator):
    """`[high, wide, WIDTH]` patches of a picture whose tiles show it twice as large."""
    whole, cut = picture
    high, wide = (cut[0] * TILE, cut[1] * TILE) if cut else whole
    return torch.randn(high, wide, WIDTH, generator=generator)


def cut_up(picture, canvas):
    """`[crops, MOST, WIDTH]` patches of tiles, and of the picture shrunk to its thumbnail."""
    whole, cut = picture
    shrunk = torch.nn.functional.adaptive_avg_pool2d(canvas.permute(2, 0, 1), whole)
    crops = [shrunk.permute(1, 2, 0).reshape(-1, WIDTH)]
    if cut is not None:
        rows, columns = cut
        tiles = canvas.view(rows, TILE, columns, TILE, WIDTH).transpose(1, 2)
        crops = [*tiles.reshape(rows * columns, -1, WIDTH), *crops]
    return torch.stack(
        [torch.nn.functional.pad(crop, (0, 0, 0, MOST - len(crop))) for crop in crops]
    )


class Lfm2VL(Hybrid):
    pictures = (PLAIN, TILED)
    cannot = {
        "unequal turns": FADES,
        "quantised cache": Hybrid.cannot["quantised cache"],
        "next layer": "its norms have other names",
    }

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        kinds = ["conv", "full_attention"] * 3
        text = {**TEXT, "layer_types": kinds, "initializer_range": 0.04}
        vision = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": 4,
            "num_patches": 64,
            "vision_use_head": False,
        }
        config = Lfm2VlConfig(
            text_config=Lfm2Config(**text, block_multiple_of=8, conv_L_cache=3),
            vision_config=Siglip2VisionConfig(**vision),
            image_token_id=IMAGE,
            projector_hidden_size=48,
            attn_implementation=attn_implementation,
        )
        torch.manual_seed(0)
        return Lfm2VlForConditionalGeneration(config).to(dtype).eval()

    def options(self, model, prompts):
        return {"adapter": Lfm2VLAdapter()}

    def part(self, layer, name):
        return getattr(layer, {"mlp": "feed_forward"}.get(name, name))

    def of(self, prompt):
        return [self.pictures[(prompt.seed + n) % len(self.pictures)] for n in range(prompt.images)]

    def make_inputs(self, model, prompts, canvases=None):
        rows, crops, pixels = [], [], []
        for prompt in prompts:
            own = self.of(prompt)
            ids, generator = row_ids(prompt, [block_of(picture) for picture in own])
            rows.append(ids)
            for number, picture in enumerate(own):
                crops += crops_of(picture)
                canvas = canvas_of(picture, generator) if canvases is None else canvases[number]
                pixels.append(cut_up(picture, canvas))
        inputs = left_padded(rows)
        if crops:
            shapes = torch.tensor(crops)
            inputs["pixel_values"] = torch.cat(pixels).to(model.dtype)
            inputs["spatial_shapes"] = shapes
            inputs["pixel_attention_mask"] = (torch.arange(MOST) < shapes.prod(-1)[:, None]).long()
        return inputs


class TestLfm2VL(Lfm2VL, AdapterSuite):
    pass


@pytest.mark.parametrize(("number", "view", "grid"), [(0, 0, (4, 6)), (1, 1, (8, 12))])
def test_layout_truth(number, view, grid):
    """A painted cell of a picture moves its token, in the stitched view where there are tiles."""
    suite, prompt = Lfm2VL(), Prompt(2, 2, 3)
    model, generator = suite.make_model(), torch.Generator().manual_seed(4)
    canvases = [canvas_of(picture, generator) for picture in suite.of(prompt)]
    inputs = suite.make_inputs(model, [prompt], canvases)
    for y, x in points(*grid):
        painted = [canvas.clone() for canvas in canvases]
        row, column = int(y * grid[0]) * 2, int(x * grid[1]) * 2
        painted[number][row : row + 2, column : column + 2] += 3
        views = {view: (0, y, x)}
        if number:
            views[2] = (0, y, x)  # the thumbnail shows it too
        after = suite.make_inputs(model, [prompt], painted)
        sample = check_truth(Lfm2VLAdapter(), model, inputs, after, views)
    assert [each.grid for each in sample.views] == [(1, 4, 6), (1, 8, 12), (1, 4, 6)]
    assert [each.image for each in sample.views] == [0, 1, 1]


def test_crops_without_tags_are_pictures_of_their_own():
    model, generator = Lfm2VL().make_model(), torch.Generator().manual_seed(4)
    ids = torch.tensor([[20, *block_of(TILED, tagged=False), 21]])
    pixels = cut_up(TILED, canvas_of(TILED, generator))
    inputs = {"input_ids": ids, "pixel_values": pixels}
    inputs["spatial_shapes"] = torch.tensor(crops_of(TILED))
    layout = Lfm2VLAdapter().layout(model, read_inputs(model.model, (), inputs))
    grids = [view.grid for view in layout.samples[0].views]
    assert grids == [(1, 4, 4)] * 6 + [(1, 4, 6)]
    assert [view.image for view in layout.samples[0].views] == list(range(7))
