"""GLM-ASR: a token for eight frames of each recording, in time.

A convolution halves the frames that are no padding; four of what is left are one token, and a remainder
of fewer is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Picture, Placeholders, recording


class GlmAsrAdapter(HFAdapter):
    """`GlmAsrForConditionalGeneration`."""

    name = "glmasr"
    models = "GLM-ASR"
    model_types = ("glmasr",)
    modalities = ("audio",)

    def audios(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        frames = inputs.lengths("audio", "input_features_mask")
        return [recording(((length - 1) // 2 + 1) // 4) for length in frames]
