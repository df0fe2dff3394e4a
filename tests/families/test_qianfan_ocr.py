"""The contract of Qianfan-OCR, which shares its tiles with InternVL."""

import pytest
from tiles import TILE, check_tiles, tile_rows
from tiny import TEXT, TOWER, seeded
from transformers import QianfanOCRConfig, QianfanOCRForConditionalGeneration, Qwen3Config

from lightkv.adapters.families.internvl import InternVLAdapter
from lightkv.testing import AdapterSuite

IMAGE, SIDE = 5, 3


def write(rows, columns):
    tiles = rows * columns
    return [IMAGE] * ((tiles + (tiles > 1)) * SIDE * SIDE)


class TestQianfanOcr(AdapterSuite):
    def make_model(self, attn_implementation="sdpa", **options):
        config = QianfanOCRConfig(
            text_config=Qwen3Config(**TEXT, head_dim=16),
            vision_config={**TOWER, "image_size": [TILE, TILE], "patch_size": [8, 8]},
            image_token_id=IMAGE,
            image_seq_length=SIDE * SIDE,
            attn_implementation=attn_implementation,
        )
        return seeded(QianfanOCRForConditionalGeneration, config, **options)

    def make_inputs(self, model, prompts):
        return tile_rows(model, prompts, write)


@pytest.mark.parametrize("shape", [(2, 3), (3, 1)])
def test_layout_truth(shape):
    check_tiles(InternVLAdapter(), TestQianfanOcr().make_model(), shape, SIDE, write)
