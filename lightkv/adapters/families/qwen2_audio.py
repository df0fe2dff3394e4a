"""Qwen2-Audio: a token for four frames of each recording, in time.

A convolution halves the frames that are no padding, and pooling halves them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Picture, Placeholders, recording


class Qwen2AudioAdapter(HFAdapter):
    """`Qwen2AudioForConditionalGeneration`."""

    name = "qwen2_audio"
    models = "Qwen2-Audio"
    model_types = ("qwen2_audio",)
    modalities = ("audio",)

    def audios(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        frames = inputs.lengths("audio", "feature_attention_mask")
        return [recording(pooled(length)) for length in frames]


def pooled(frames: int) -> int:
    """Tokens of so many frames behind a convolution and a pooling, each of stride 2."""
    return ((frames - 1) // 2 + 1) // 2
