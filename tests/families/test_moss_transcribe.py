"""The contract of MOSS-Transcribe-Diarize: chunks of frames, of which a recording may have several."""

import torch
from audio import AUDIO, BINS, AudioSuite
from releases import needs_class
from rows import audio_rows, check_time, left_padded
from tiny import TEXT, TOWER, seeded
from transformers import Qwen3Config

from lightkv.adapters.families.moss_transcribe import MossTranscribeAdapter
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.testing import Prompt

MossTranscribeDiarizeConfig = needs_class("MossTranscribeDiarizeConfig")
Model = needs_class("MossTranscribeDiarizeForConditionalGeneration")
FRAMES, MASK = 120, "input_features_mask"


def tokens(frames):
    return -(-((frames - 1) // 2 + 1) // 4)


def recordings(model, prompts):
    return audio_rows(model, prompts, tokens, (120, 91), bins=BINS, mask=MASK, width=FRAMES)


class TestMossTranscribe(AudioSuite):
    first_layer = 1
    cannot = {
        "unequal turns": "the model takes no position_ids, so padding between turns counts as text"
    }

    def make_model(self, attn_implementation="sdpa", **options):
        config = MossTranscribeDiarizeConfig(
            text_config=Qwen3Config(**TEXT, head_dim=16),
            audio_config={**TOWER, "num_mel_bins": BINS, "max_source_positions": FRAMES // 2},
            audio_token_id=AUDIO,
            attn_implementation=attn_implementation,
        )
        return seeded(Model, config, **options)

    def make_inputs(self, model, prompts):
        return recordings(model, prompts)


def test_layout_truth():
    model = TestMossTranscribe().make_model()
    inputs = recordings(model, [Prompt(2, 2, 3)])
    sample = check_time(MossTranscribeAdapter(), model, inputs, 8, 1)
    assert [view.grid for view in sample.views] == [(15, 1, 1), (12, 1, 1)]


def test_chunks_of_a_recording_are_one_view():
    model = TestMossTranscribe().make_model()
    ids = torch.tensor([20, *[AUDIO] * 27, 21, *[AUDIO] * 15, 22])
    mask = (torch.arange(FRAMES) < torch.tensor([[120], [91], [120]])).long()
    features = torch.randn(3, BINS, FRAMES)
    inputs = {**left_padded([ids]), "input_features": features, MASK: mask}
    layout = MossTranscribeAdapter().layout(model, read_inputs(model.model, (), inputs))
    assert [view.grid for view in layout.samples[0].views] == [(27, 1, 1), (15, 1, 1)]
