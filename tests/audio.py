"""What the contracts of families with recordings share."""

from lightkv.testing import AdapterSuite
from lightkv.testing.adapters import PAIR

AUDIO, BINS = 5, 16
"""Id of placeholders, and numbers of a frame."""

SOUND = {
    "num_mel_bins": BINS,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "d_model": 32,
    "max_source_positions": 64,
    "output_dim": 64,
}
"""Sizes of an encoder of Qwen's kind, which convolves chunks of frames."""

UNTOLD_DRAFTS = {
    "assisted": "without logits_to_keep nobody can tell drafts from the prompt: refused",
}


class AudioSuite(AdapterSuite):
    modality = "audio"
    beam_prompts = PAIR
    """transformers repeats recordings one by one, so two of a prompt would get in each other's way."""
    refused = {"lightkv-release": "audio has no rows and columns"}
