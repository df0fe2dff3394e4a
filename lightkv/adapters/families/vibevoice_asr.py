"""VibeVoice-ASR: a token for each hop of samples of a recording, in time.

Unless `sample=False` is given, noise is added to the latents: two runs differ without lightkv, too.
Its forward takes no position_ids, so `generate` cannot go on after a stage before layer 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Picture, Placeholders, recording


class VibeVoiceAsrAdapter(HFAdapter):
    """`VibeVoiceAsrForConditionalGeneration`: two causal encoders make a latent of each hop."""

    name = "vibevoice_asr"
    models = "VibeVoice-ASR"
    model_types = ("vibevoice_asr",)
    modalities = ("audio",)

    def audios(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        hop = config.acoustic_tokenizer_encoder_config.hop_length
        # The last hop of a recording may be padding in part.
        samples = inputs.lengths("audio", "padding_mask")
        return [recording(-(-length // hop)) for length in samples]
