"""The contract of Fun-ASR-Nano: a token for each stacked frame."""

import pytest
from audio import AUDIO, BINS, AudioSuite
from releases import needs_class
from rows import audio_rows, check_time
from tiny import TEXT, TOWER, seeded
from transformers import Qwen3Config

from lightkv.adapters.families.fun_asr_nano import FunAsrNanoAdapter
from lightkv.testing import Prompt

FunAsrNanoConfig = needs_class("FunAsrNanoConfig")
FunAsrNanoForConditionalGeneration = needs_class("FunAsrNanoForConditionalGeneration")
SOUND = {
    **TOWER,
    "model_type": "fun_asr_nano_encoder",
    "num_mel_bins": BINS,
    "num_stacked_frames": 1,
    "num_hidden_layers": 3,
    "num_timestamp_prediction_layers": 1,
    "fsmn_kernel_size": 3,
}
ADAPTOR = {**TOWER, "intermediate_size": 16, "num_hidden_layers": 1, "hidden_size": 64}


def recordings(model, prompts):
    mask = "input_features_mask"
    return audio_rows(model, prompts, int, (20, 13), bins=BINS, mask=mask, time=1)


class TestFunAsrNano(AudioSuite):
    def make_model(self, attn_implementation="sdpa", **options):
        config = FunAsrNanoConfig(
            text_config=Qwen3Config(**TEXT, head_dim=16),
            audio_config=SOUND,
            adaptor_config=ADAPTOR,
            audio_token_id=AUDIO,
            attn_implementation=attn_implementation,
        )
        return seeded(FunAsrNanoForConditionalGeneration, config, **options)

    def make_inputs(self, model, prompts):
        return recordings(model, prompts)


@pytest.mark.parametrize("number", [0, 1])
def test_layout_truth(number):
    model = TestFunAsrNano().make_model()
    inputs = recordings(model, [Prompt(2, 2, 3)])
    sample = check_time(FunAsrNanoAdapter(), model, inputs, 1, number, time=1)
    assert [view.grid for view in sample.views] == [(20, 1, 1), (13, 1, 1)]
