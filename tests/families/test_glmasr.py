"""The contract of GLM-ASR: recordings of their own length, a token for eight frames."""

import pytest
from audio import AUDIO, BINS, AudioSuite
from rows import audio_rows, check_time
from tiny import TEXT, TOWER, seeded
from transformers import GlmAsrConfig, GlmAsrForConditionalGeneration, LlamaConfig

from lightkv.adapters.families.glmasr import GlmAsrAdapter
from lightkv.testing import Prompt


def recordings(model, prompts):
    def tokens(frames):
        return ((frames - 1) // 2 + 1) // 4

    return audio_rows(model, prompts, tokens, (160, 133), bins=BINS, mask="input_features_mask")


class TestGlmAsr(AudioSuite):
    def make_model(self, attn_implementation="sdpa", **options):
        sound = {**TOWER, "intermediate_size": 128, "num_mel_bins": BINS}
        config = GlmAsrConfig(
            text_config=LlamaConfig(**TEXT).to_dict(),
            audio_config={"model_type": "glmasr_encoder", **sound},
            audio_token_id=AUDIO,
            attn_implementation=attn_implementation,
        )
        return seeded(GlmAsrForConditionalGeneration, config, **options)

    def make_inputs(self, model, prompts):
        return recordings(model, prompts)


@pytest.mark.parametrize("number", [0, 1])
def test_layout_truth(number):
    model = TestGlmAsr().make_model()
    inputs = recordings(model, [Prompt(2, 2, 3)])
    sample = check_time(GlmAsrAdapter(), model, inputs, 8, number)
    assert [view.grid for view in sample.views] == [(20, 1, 1), (16, 1, 1)]
