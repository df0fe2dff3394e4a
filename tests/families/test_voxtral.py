"""The contract of Voxtral: chunks of equal length, of which a recording may have several."""

import torch
from audio import AUDIO, BINS, AudioSuite
from rows import audio_rows, check_time, left_padded
from tiny import TEXT, TOWER, seeded
from transformers import LlamaConfig, VoxtralConfig, VoxtralForConditionalGeneration

from lightkv.adapters.families.voxtral import VoxtralAdapter
from lightkv.testing import Prompt

FRAMES, TOKENS = 120, 15


def chunks(model, prompts):
    return audio_rows(model, prompts, lambda frames: frames // 8, (FRAMES, FRAMES), bins=BINS)


class TestVoxtral(AudioSuite):
    def make_model(self, attn_implementation="sdpa", **options):
        sound = {
            **TOWER,
            "intermediate_size": 128,
            "num_mel_bins": BINS,
            "max_source_positions": 60,
        }
        config = VoxtralConfig(
            text_config=LlamaConfig(**TEXT).to_dict(),
            audio_config=sound,
            audio_token_id=AUDIO,
            attn_implementation=attn_implementation,
        )
        return seeded(VoxtralForConditionalGeneration, config, **options)

    def make_inputs(self, model, prompts):
        return chunks(model, prompts)


def test_layout_truth():
    model = TestVoxtral().make_model()
    sample = check_time(VoxtralAdapter(), model, chunks(model, [Prompt(2, 2, 3)]), 8, 1)
    assert [view.grid for view in sample.views] == [(TOKENS, 1, 1)] * 2


def test_chunks_of_a_recording_are_one_view():
    model = TestVoxtral().make_model()
    ids = torch.tensor([20, *[AUDIO] * 2 * TOKENS, 21, *[AUDIO] * TOKENS, 22])
    features = torch.randn(3, BINS, FRAMES)
    inputs = {**left_padded([ids]), "input_features": features}
    with TestVoxtral().session(model, [Prompt()], trace=True) as run, torch.no_grad():
        model(**inputs)
    grids = [view.grid for view in run.last.layout.samples[0].views]
    assert grids == [(2 * TOKENS, 1, 1), (TOKENS, 1, 1)]
