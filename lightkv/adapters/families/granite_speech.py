"""Granite Speech: learned queries for each window of frames, window after window in time.

Inside a window the queries are no frames of their own, so time is only as fine as windows are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Picture, Placeholders, recording


class GraniteSpeechAdapter(HFAdapter):
    """`GraniteSpeechForConditionalGeneration` and `GraniteSpeechPlusForConditionalGeneration`."""

    name = "granite_speech"
    models = "Granite Speech"
    model_types = ("granite_speech", "granite_speech_plus")
    modalities = ("audio",)

    def vision_modules(self, model: Any) -> Sequence[Any]:
        return [model.model.encoder]

    def audios(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        if inputs.optional("audio", "input_features_mask") is not None:
            # Of tokens, in spite of its name.
            tokens = inputs.lengths("audio", "input_features_mask")
        else:
            count, frames = inputs.geometry("audio", "input_features").shape[:2]
            queries = config.window_size // config.downsample_rate
            tokens = [-(-int(frames) // config.window_size) * queries] * int(count)
        return [recording(length) for length in tokens]
