"""MOSS-Transcribe-Diarize: a token for eight frames, in chunks; those of a recording follow one another.

A convolution halves the frames of a chunk; what is left over behind the last whole token is one too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Picture, Placeholders, recordings


class MossTranscribeAdapter(HFAdapter):
    """`MossTranscribeDiarizeForConditionalGeneration`."""

    name = "moss_transcribe"
    models = "MOSS-Transcribe-Diarize"
    model_types = ("moss_transcribe_diarize",)
    modalities = ("audio",)

    def min_layer(self, model: nn.Module) -> int:
        """One: `generate` passes no positions, so they are counted from the cache of layer 0."""
        return 1

    def audios(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        frames = inputs.lengths("audio", "input_features_mask")
        tokens = [-(-((length - 1) // 2 + 1) // config.audio_merge_size) for length in frames]
        return recordings(tokens, here)
