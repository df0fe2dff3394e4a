"""EXAONE 4.5, HyperCLOVA X Vision: pictures as in Qwen2.5-VL, decoders with one position for each token.

Their `generate` gives no positions: the decoder counts the entries of layer 0, which must therefore hold
the whole prompt.
"""

from __future__ import annotations

from torch import nn

from lightkv.adapters.families.qwen_vl import QwenVLAdapter


class Exaone45Adapter(QwenVLAdapter):
    """`Exaone4_5_ForConditionalGeneration` and `HyperCLOVAXVisionV2ForConditionalGeneration`."""

    name = "exaone4_5"
    models = "EXAONE 4.5, HyperCLOVA X Vision"
    model_types = ("exaone4_5", "hyperclovax_vision_v2")

    def min_layer(self, model: nn.Module) -> int:
        return 1
