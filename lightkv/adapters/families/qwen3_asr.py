"""Qwen3-ASR: a token for eight frames of each recording, in chunks of 100 frames and 13 tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Picture, Placeholders, recording

CHUNK_TOKENS = 13
"""Tokens of a whole chunk, as the model counts them, whatever the length of its chunks."""


class Qwen3ASRAdapter(HFAdapter):
    """`Qwen3ASRForConditionalGeneration`."""

    name = "qwen3_asr"
    models = "Qwen3-ASR"
    model_types = ("qwen3_asr",)
    modalities = ("audio",)

    def audios(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        chunk = 2 * config.audio_config.n_window
        frames = inputs.lengths("audio", "input_features_mask")
        return [recording(chunked(length, chunk)) for length in frames]


def chunked(frames: int, chunk: int) -> int:
    """Tokens of so many frames: three convolutions of stride 2 over each chunk."""
    whole, rest = divmod(frames, chunk)
    for _ in range(3):
        rest = (rest + 1) // 2
    return whole * CHUNK_TOKENS + rest
