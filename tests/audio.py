"""What the contracts of families with recordings share."""

from lightkv.testing import AdapterSuite
from lightkv.testing.adapters import PAIR

AUDIO, BINS = 5, 16
"""Id of placeholders, and numbers of a frame."""

UNTOLD_DRAFTS = {
    "assisted": "without logits_to_keep nobody can tell drafts from the prompt: refused",
}


class AudioSuite(AdapterSuite):
    modality = "audio"
    beam_prompts = PAIR
    """transformers repeats recordings one by one, so two of a prompt would get in each other's way."""
    refused = {"lightkv-release": "audio has no rows and columns"}
