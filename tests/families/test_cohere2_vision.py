"""The contract of Command A Vision and Aya Vision: text between tiles, rotary on sliding layers only."""

import pytest
import torch
from tiles import check_tiles, tile_rows
from tiny import TEXT, TOWER, seeded
from transformers import (
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    Cohere2Config,
    Cohere2VisionConfig,
    Cohere2VisionForConditionalGeneration,
    SiglipVisionConfig,
)

from lightkv.adapters.families.cohere2_vision import AyaVisionAdapter, Cohere2VisionAdapter
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.core.errors import LayoutError
from lightkv.testing import AdapterSuite

IMAGE, START, END, BREAK, WHOLE, TILE_TAG, SIDE = 5, 6, 7, 8, 9, 10, 3
WINDOWS = (24, 24, None, 24, 24, None)


def parts(attn_implementation):
    kinds = ["sliding_attention" if window else "full_attention" for window in WINDOWS]
    return {
        "text_config": Cohere2Config(**TEXT, sliding_window=24, layer_types=kinds),
        "vision_config": SiglipVisionConfig(
            **TOWER, image_size=48, patch_size=8, vision_use_head=False
        ),
        "downsample_factor": 2,
        "alignment_intermediate_size": 64,
        "attn_implementation": attn_implementation,
    }


def command(rows, columns):
    tiles = rows * columns
    return [START, *([IMAGE] * SIDE * SIDE + [BREAK]) * (tiles + (tiles > 1)), END]


def aya(rows, columns):
    tiles, ids = rows * columns, [START]
    for number in range(tiles if tiles > 1 else 0):
        ids += [TILE_TAG, 20 + number, *[IMAGE] * SIDE * SIDE]
    return [*ids, WHOLE, *[IMAGE] * SIDE * SIDE, END]


class TestCohere2Vision(AdapterSuite):
    windows = WINDOWS

    def make_model(self, attn_implementation="sdpa", **options):
        config = Cohere2VisionConfig(**parts(attn_implementation), image_token_id=IMAGE)
        return seeded(Cohere2VisionForConditionalGeneration, config, **options)

    def make_inputs(self, model, prompts):
        return tile_rows(model, prompts, command)


class TestAyaVision(TestCohere2Vision):
    def make_model(self, attn_implementation="sdpa", **options):
        config = AyaVisionConfig(**parts(attn_implementation), image_token_index=IMAGE)
        return seeded(AyaVisionForConditionalGeneration, config, **options)

    def make_inputs(self, model, prompts):
        return tile_rows(model, prompts, aya)


BOTH = pytest.mark.parametrize(
    ("suite", "adapter", "write"),
    [
        (TestCohere2Vision(), Cohere2VisionAdapter(), command),
        (TestAyaVision(), AyaVisionAdapter(), aya),
    ],
    ids=["cohere2_vision", "aya_vision"],
)


@BOTH
@pytest.mark.parametrize("shape", [(2, 3), (3, 2)])
def test_layout_truth(suite, adapter, write, shape):
    check_tiles(adapter, suite.make_model(), shape, SIDE, write)


def grids_of(adapter, model, inputs):
    layout = adapter.layout(model, read_inputs(model.model, (), inputs))
    return [[view.grid for view in sample.views] for sample in layout.samples]


@BOTH
def test_beams_repeat_the_pictures_of_their_row(suite, adapter, write):
    model = suite.make_model()
    inputs = suite.make_inputs(model, suite.batch)
    wanted = grids_of(adapter, model, inputs)
    for name in ("input_ids", "attention_mask"):
        inputs[name] = inputs[name].repeat_interleave(2, dim=0)
    found = grids_of(adapter, model, inputs)
    assert found[::2] == found[1::2] == wanted
    assert wanted[:2] == [[(1, 3, 6), (1, 3, 3)], [(1, 3, 6), (1, 3, 3), (1, 3, 3)]]


@BOTH
def test_a_run_that_is_no_tile_is_refused(suite, adapter, write):
    model = suite.make_model()
    inputs = {"input_ids": torch.tensor([[IMAGE] * 10]), "pixel_values": torch.ones(1, 3, 48, 48)}
    with pytest.raises(LayoutError, match="10 image placeholders, but each tile takes 9"):
        adapter.layout(model, read_inputs(model.model, (), inputs))
