"""The contract of the Qwen2-Audio adapter: recordings of their own length, a token for four frames."""

import pytest
import torch
from rows import audio_rows, check_time
from tiny import TEXT, seeded
from transformers import (
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2Config,
)

from lightkv.adapters.families.qwen2_audio import Qwen2AudioAdapter, pooled
from lightkv.testing import AdapterSuite, Prompt

AUDIO, BINS, FRAMES = 5, 16, 120


def tiny_qwen2_audio(attn_implementation="sdpa", dtype=torch.float32):
    config = Qwen2AudioConfig(
        text_config=Qwen2Config(**TEXT),
        audio_config=Qwen2AudioEncoderConfig(
            num_mel_bins=BINS,
            encoder_layers=1,
            encoder_attention_heads=2,
            encoder_ffn_dim=48,
            d_model=32,
            max_source_positions=FRAMES // 2,
        ),
        audio_token_index=AUDIO,
        attn_implementation=attn_implementation,
    )
    return seeded(Qwen2AudioForConditionalGeneration, config, dtype)


def recordings(model, prompts, lengths=(120, 87)):
    mask = "feature_attention_mask"
    return audio_rows(model, prompts, pooled, lengths, bins=BINS, mask=mask, width=FRAMES)


class TestQwen2Audio(AdapterSuite):
    modality = "audio"
    cannot = {"kept logits": "the model takes no logits_to_keep"}

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        return tiny_qwen2_audio(attn_implementation, dtype)

    def make_inputs(self, model, prompts):
        return recordings(model, prompts)


@pytest.mark.parametrize("number", [0, 1])
def test_layout_truth(number):
    model = tiny_qwen2_audio()
    inputs = recordings(model, [Prompt(2, 2, 3, seed=4)])
    sample = check_time(Qwen2AudioAdapter(), model, inputs, 4, number)
    assert [view.grid for view in sample.views] == [(30, 1, 1), (22, 1, 1)]
