"""The contract of Ovis 2: a small copy, then tiles with indicators that say how they lie."""

import pytest
from tiles import check_tiles, thumbnail_first, tile_rows
from tiny import TEXT, TOWER, seeded
from transformers import Ovis2Config, Ovis2ForConditionalGeneration, Qwen2Config

from lightkv.adapters.families.ovis2 import Ovis2Adapter
from lightkv.testing import AdapterSuite

IMAGE, SIDE = 5, 3
INDICATORS = START, GRID, COLUMN, ROW, END = 30, 31, 32, 33, 34


def write(rows, columns):
    tile = [IMAGE] * SIDE * SIDE
    ids = [START, *tile, GRID]
    for number in range(rows * columns if rows * columns > 1 else 0):
        row_ends = (number + 1) % columns == 0
        ids += [*tile, ROW if row_ends else COLUMN]
    return [*ids[: -1 if rows * columns > 1 else None], END]


class TestOvis2(AdapterSuite):
    indicators = INDICATORS

    def make_model(self, attn_implementation="sdpa", **options):
        vision = {
            **TOWER,
            "image_size": 48,
            "patch_size": 8,
            "hidden_stride": 2,
            "num_visual_indicator_tokens": 5,
            "vocab_size": 64,
        }
        config = Ovis2Config(
            text_config=Qwen2Config(**TEXT),
            vision_config=vision,
            image_token_id=IMAGE,
            visual_indicator_token_ids=self.indicators,
            hidden_size=64,
            vocab_size=200,
            attn_implementation=attn_implementation,
        )
        return seeded(Ovis2ForConditionalGeneration, config, **options)

    def make_inputs(self, model, prompts):
        return tile_rows(model, prompts, write, thumbnail_first)


@pytest.mark.parametrize("shape", [(2, 3), (3, 1), (1, 4)])
def test_layout_truth(shape):
    model = TestOvis2().make_model()
    check_tiles(Ovis2Adapter(), model, shape, SIDE, write, thumbnail_first)
