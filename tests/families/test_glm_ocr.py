"""The contract of GLM-OCR: as GLM-4.1V."""

from grids import GLM_IDS, Clips, GlmGrids, rope, text, tower
from transformers import GlmOcrConfig, GlmOcrForConditionalGeneration

from lightkv.testing import AdapterSuite


class GlmOcr(GlmGrids):
    model = GlmOcrForConditionalGeneration

    def config(self, **given):
        rotary = rope(partial_rotary_factor=1.0, mrope_section=[2, 3, 3])
        return GlmOcrConfig(
            text_config=text(head_dim=16, rope_parameters=rotary),
            vision_config=tower(image_size=32),
            **GLM_IDS,
            **given,
        )


class TestGlmOcr(GlmOcr, AdapterSuite):
    pass


class TestClips(Clips, GlmOcr):
    pass
