"""The contract of the Qwen2.5-Omni adapter, on sound, and layouts of prompts that show everything."""

import pytest
import torch
from audio import AUDIO, BINS, SOUND, UNTOLD_DRAFTS, AudioSuite
from releases import needs_class
from rows import audio_rows, check_time, check_truth, left_padded
from tiny import GRID_TOWER, TEXT, seeded
from transformers import (
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
)

from lightkv.adapters.families.qwen2_audio import pooled
from lightkv.adapters.families.qwen3_asr import chunked
from lightkv.adapters.families.qwen_omni import Qwen3OmniAdapter, QwenOmniAdapter
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.testing import Prompt

needs_class("Qwen2_5OmniThinkerModel")  # before, the thinker itself merged what it saw: refused

IMAGE, VIDEO = 15, 6
START, END, SOUND_START, SOUND_END = 3, 4, 13, 14
IDS = {"image_token_id": IMAGE, "video_token_id": VIDEO, "audio_token_id": AUDIO}
PLACES = {
    "vision_start_token_id": START,
    "vision_end_token_id": END,
    "audio_start_token_id": SOUND_START,
    "audio_end_token_id": SOUND_END,
    "user_token_id": 16,
}


def tiny_omni(attn_implementation="sdpa", dtype=torch.float32):
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    config = Qwen2_5OmniThinkerConfig(
        text_config={**TEXT, "rope_parameters": rope},
        vision_config={**GRID_TOWER, "window_size": 16, "fullatt_block_indexes": [1]},
        audio_config={**SOUND, "n_window": 16},
        **IDS,
        **PLACES,
        attn_implementation=attn_implementation,
    )
    return seeded(Qwen2_5OmniThinkerForConditionalGeneration, config, dtype)


def tiny_omni_moe():
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    experts = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
    config = Qwen3OmniMoeThinkerConfig(
        text_config={**TEXT, **experts, "head_dim": 16, "rope_parameters": rope},
        vision_config={
            **GRID_TOWER,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        audio_config={**SOUND, "n_window": 50, "n_window_infer": 100, "downsample_hidden_size": 8},
        **IDS,
        **PLACES,
    )
    return seeded(Qwen3OmniMoeThinkerForConditionalGeneration, config)


def everything(tokens=pooled, seed=0):
    """A prompt of a picture of 8 × 12 tokens, a video of 2 frames of 6 × 4 and 80 frames of sound."""
    generator = torch.Generator().manual_seed(seed)

    def pixels(count):
        return torch.randn(count, 3 * 2 * 4 * 4, generator=generator)

    ids = [20, 21, START, *[IMAGE] * 96, END, 22, START, *[VIDEO] * 48, END, 23]
    ids += [SOUND_START, *[AUDIO] * tokens(80), SOUND_END, 24, 25, 26]
    return {
        **left_padded([torch.tensor(ids)]),
        "pixel_values": pixels(4 * 96),
        "image_grid_thw": torch.tensor([[1, 16, 24]]),
        "pixel_values_videos": pixels(4 * 48),
        "video_grid_thw": torch.tensor([[2, 12, 8]]),
        "video_second_per_grid": torch.tensor([1.0]),
        "input_features": torch.randn(1, BINS, 80, generator=generator),
        "feature_attention_mask": torch.ones(1, 80, dtype=torch.long),
    }


def eighth(frames):
    return chunked(frames, 100)


MODELS = [
    pytest.param(tiny_omni, QwenOmniAdapter, pooled, id="2.5"),
    pytest.param(tiny_omni_moe, Qwen3OmniAdapter, eighth, id="3"),
]


class TestQwenOmni(AudioSuite):
    """Sound; pictures and videos are those of Qwen-VL, whose contract is in test_qwen_vl.py."""

    cannot = UNTOLD_DRAFTS

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        return tiny_omni(attn_implementation, dtype)

    def make_inputs(self, model, prompts):
        mask = "feature_attention_mask"
        return audio_rows(model, prompts, pooled, (96, 70), bins=BINS, mask=mask)


@pytest.mark.parametrize(("make", "adapter", "tokens"), MODELS)
def test_layout_truth_of_all_modalities(make, adapter, tokens):
    model, inputs = make(), everything(tokens)
    layout = adapter().layout(model, read_inputs(model.model, (), dict(inputs)))
    views = layout.samples[0].views
    assert [view.modality for view in views] == ["image", "video", "audio"]
    assert [view.grid for view in views] == [(1, 8, 12), (2, 6, 4), (tokens(80), 1, 1)]
    for name, number, patch, point in (
        ("pixel_values", 0, 4 * (12 + 2), (0, 1.5 / 8, 2.5 / 12)),
        ("pixel_values_videos", 1, 4 * (24 + 4 + 3), (1, 1.5 / 6, 3.5 / 4)),
    ):
        painted = inputs[name].clone()
        painted[patch : patch + 4] += 3.0
        check_truth(adapter(), model, inputs, {**inputs, name: painted}, {number: point})
    count = tokens(80)
    for at in (0, count // 2, count - 1):
        painted = inputs["input_features"].clone()
        step = 80 // count
        painted[..., at * step : (at + 1) * step] += 4.0
        changed = {**inputs, "input_features": painted}
        check_truth(adapter(), model, inputs, changed, {2: (at, 0.0, 0.0)})


def test_truth_within_a_recording():
    model = tiny_omni()
    inputs = audio_rows(
        model, [Prompt(2, 2, 3)], pooled, (96, 70), bins=BINS, mask="feature_attention_mask"
    )
    check_time(QwenOmniAdapter(), model, inputs, 4, 1)
