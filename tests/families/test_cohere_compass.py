"""The contract of Cohere Compass: deepstack, sliding layers, rotary tables by layer type."""

from grids import WRAPPED, Clips, Deepstack, rope, text
from transformers import CohereCompassConfig, CohereCompassForConditionalGeneration

from lightkv.testing import AdapterSuite

WINDOW, TYPES = 24, (["sliding_attention"] * 2 + ["full_attention"]) * 3


class CohereCompass(Deepstack):
    model = CohereCompassForConditionalGeneration
    windows = tuple(WINDOW if kind.startswith("sliding") else None for kind in TYPES)

    def config(self, **given):
        rotary = rope(mrope_section=[2, 3, 3], mrope_interleaved=True)
        decoder = text(
            num_hidden_layers=self.layers,
            layer_types=TYPES,
            sliding_window=WINDOW,
            logit_scale=1.0,
            rope_parameters={kind: {**rotary} for kind in set(TYPES)},
        )
        return CohereCompassConfig(
            text_config=decoder, vision_config=self.tower, **WRAPPED, **given
        )


class TestCohereCompass(CohereCompass, AdapterSuite):
    pass


class TestClips(Clips, CohereCompass):
    pass
