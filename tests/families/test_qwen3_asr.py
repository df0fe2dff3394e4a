"""The contract of Qwen3-ASR: chunks of 100 frames and 13 tokens."""

import pytest
from audio import AUDIO, BINS, SOUND, AudioSuite
from releases import needs_class
from rows import audio_rows, check_time
from tiny import TEXT, seeded
from transformers import Qwen3Config

from lightkv.adapters.families.qwen3_asr import Qwen3ASRAdapter, chunked
from lightkv.testing import Prompt

Qwen3ASRConfig = needs_class("Qwen3ASRConfig")
Qwen3ASRForConditionalGeneration = needs_class("Qwen3ASRForConditionalGeneration")
ENCODER = {
    **SOUND,
    "model_type": "qwen3_asr_encoder",
    "n_window": 50,
    "n_window_infer": 100,
    "downsample_hidden_size": 8,
}


def recordings(model, prompts):
    def tokens(frames):
        return chunked(frames, 100)

    return audio_rows(model, prompts, tokens, (200, 164), bins=BINS, mask="input_features_mask")


class TestQwen3ASR(AudioSuite):
    def make_model(self, attn_implementation="sdpa", **options):
        config = Qwen3ASRConfig(
            text_config=Qwen3Config(**TEXT, head_dim=16),
            audio_config=ENCODER,
            audio_token_id=AUDIO,
            attn_implementation=attn_implementation,
        )
        return seeded(Qwen3ASRForConditionalGeneration, config, **options)

    def make_inputs(self, model, prompts):
        return recordings(model, prompts)


@pytest.mark.parametrize("number", [0, 1])
def test_layout_truth(number):
    """Each token stands for the frame in its middle most, also in the second chunk."""
    model = TestQwen3ASR().make_model()
    inputs = recordings(model, [Prompt(2, 2, 3)])

    def middle(token):
        return token // 13 * 100 + token % 13 * 8

    sample = check_time(Qwen3ASRAdapter(), model, inputs, 1, number, frame=middle)
    assert [view.grid for view in sample.views] == [(26, 1, 1), (21, 1, 1)]
