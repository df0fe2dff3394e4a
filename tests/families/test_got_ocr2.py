"""The contract of GOT-OCR 2 and PP-Chart2Table: one square for each page."""

import pytest
import torch
from rows import check_square, picture_rows
from tiny import TEXT, TOWER, seeded
from transformers import (
    GotOcr2Config,
    GotOcr2ForConditionalGeneration,
    PPChart2TableConfig,
    Qwen2Config,
)

from lightkv.adapters.families.got_ocr2 import GotOcr2Adapter
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.testing import AdapterSuite, Prompt

IMAGE, SIDE = 5, 4


class TestGotOcr2(AdapterSuite):
    config = GotOcr2Config

    def make_model(self, attn_implementation="sdpa", **options):
        vision = {
            **TOWER,
            "output_channels": 16,
            "image_size": 64,
            "patch_size": 4,
            "window_size": 4,
            "global_attn_indexes": [1],
            "mlp_dim": 48,
            "initializer_range": 0.02,
        }
        config = self.config(
            # The whole model is not offered with SDPA, its decoder is.
            text_config=Qwen2Config(**TEXT, attn_implementation=attn_implementation),
            vision_config=vision,
            image_token_index=IMAGE,
            image_seq_length=SIDE * SIDE,
        )
        return seeded(GotOcr2ForConditionalGeneration, config, **options)

    def make_inputs(self, model, prompts):
        return picture_rows(model, prompts, [IMAGE] * SIDE * SIDE, 64)


class Chart(TestGotOcr2):
    config = PPChart2TableConfig


@pytest.mark.parametrize("suite", [TestGotOcr2(), Chart()], ids=["got_ocr2", "pp_chart2table"])
def test_layout_truth(suite):
    model = suite.make_model()
    check_square(GotOcr2Adapter(), model, suite.make_inputs(model, [Prompt()]), SIDE)
    assert GotOcr2Adapter().matches(model)


def test_pages_without_text_between_them_are_squares_of_their_own():
    model = TestGotOcr2().make_model()
    ids = torch.tensor([[7, *[IMAGE] * 3 * SIDE * SIDE, 8]])
    inputs = {"input_ids": ids, "pixel_values": torch.randn(3, 3, 64, 64)}
    layout = GotOcr2Adapter().layout(model, read_inputs(model.model, (), inputs))
    assert [view.grid for view in layout.samples[0].views] == [(1, SIDE, SIDE)] * 3
