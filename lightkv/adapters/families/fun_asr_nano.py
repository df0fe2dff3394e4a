"""Fun-ASR-Nano: a token for each of its stacked frames that is no padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Picture, Placeholders, recording


class FunAsrNanoAdapter(HFAdapter):
    """`FunAsrNanoForConditionalGeneration`."""

    name = "fun_asr_nano"
    models = "Fun-ASR-Nano"
    model_types = ("fun_asr_nano",)
    modalities = ("audio",)

    def audios(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        return [recording(frames) for frames in inputs.lengths("audio", "input_features_mask")]
