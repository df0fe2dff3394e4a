"""Voxtral: chunks of equal length, each with as many tokens; those of a recording follow one another.

A convolution halves the frames of a chunk, and what its projector takes side by side is one token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Picture, Placeholders, recordings


class VoxtralAdapter(HFAdapter):
    """`VoxtralForConditionalGeneration`."""

    name = "voxtral"
    models = "Voxtral"
    model_types = ("voxtral",)
    modalities = ("audio",)

    def audios(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        chunks, _, frames = inputs.geometry("audio", "input_features").shape
        audio = config.audio_config
        each = (int(frames) + 1) // 2 * audio.hidden_size // audio.intermediate_size
        return recordings([each] * int(chunks), here)
