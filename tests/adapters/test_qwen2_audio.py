"""The contract of the Qwen2-Audio adapter: recordings of their own length, a token for four frames."""

import pytest
import torch
from audio import AUDIO, BINS, UNTOLD_DRAFTS, AudioSuite
from rows import audio_rows, check_time
from tiny import TEXT, seeded
from transformers import (
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2Config,
)

import lightkv
from lightkv.adapters.families.qwen2_audio import Qwen2AudioAdapter, pooled
from lightkv.core.errors import ConfigError, LayoutError, SessionError
from lightkv.testing import Prompt

FRAMES = 120


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


class TestQwen2Audio(AudioSuite):
    cannot = UNTOLD_DRAFTS

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


def test_a_wrong_number_of_placeholders_is_refused():
    model = tiny_qwen2_audio()
    inputs = recordings(model, [Prompt(2, 1, 3, seed=4)])
    inputs["input_ids"][0, 10] = 9
    with (
        pytest.raises(LayoutError, match="29 audio placeholders"),
        lightkv.compress(model, "fastv"),
    ):
        model(**inputs)


def test_a_prompt_with_audio_alone_is_compressed_by_its_share():
    model = tiny_qwen2_audio()
    inputs = recordings(model, [Prompt(2, 2, 3, seed=4)])
    with lightkv.compress(model, "lightkv", retention={"audio": 0.7}) as run:
        model.generate(**inputs, max_new_tokens=2)
    assert run.last.retentions == pytest.approx({"audio": 0.7}, abs=0.05)
    assert run.last.to_dict()["retentions"] == run.last.retentions
    assert "audio 0." in str(run.last)


def test_a_modality_that_the_model_lacks_is_refused():
    with pytest.raises(ConfigError, match=r"no tokens of image.*name one or more of: audio"):
        lightkv.attach(tiny_qwen2_audio(), "fastv", retention={"image": 0.5, "audio": 0.7})


def test_drafts_that_nobody_can_tell_from_the_prompt_are_refused():
    model = tiny_qwen2_audio()
    inputs = recordings(model, [Prompt(2, 1, 3, seed=4)])
    with (
        lightkv.compress(model, "fastv"),
        pytest.raises(SessionError, match="takes no logits_to_keep"),
    ):
        model.generate(**inputs, max_new_tokens=3, prompt_lookup_num_tokens=2)
