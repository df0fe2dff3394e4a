"""The contract of PaddleOCR-VL: pixels row by row instead of square by square; no clips."""

from grids import WRAPPED, Grids, rope, siglip, text
from releases import LATER_IMAGE, PLAIN_BEAMS
from transformers import PaddleOCRVLConfig, PaddleOCRVLForConditionalGeneration

from lightkv.adapters.families.qwen_vl import QwenVLAdapter
from lightkv.testing import AdapterSuite


class TestPaddleOcrVl(Grids, AdapterSuite):
    adapter, model = QwenVLAdapter, PaddleOCRVLForConditionalGeneration
    patch, raster = (3, 4, 4), True
    cannot = LATER_IMAGE | PLAIN_BEAMS

    def config(self, **given):
        return PaddleOCRVLConfig(
            text_config=text(head_dim=16, rope_parameters=rope(mrope_section=[2, 3, 3])),
            vision_config=siglip(image_size=32, spatial_merge_size=2),
            **WRAPPED,
            **given,
        )
