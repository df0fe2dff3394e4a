"""VibeVoice-ASR: causal encoders of samples, whose number of tokens follows from the length alone."""

import pytest
import torch
from audio import AUDIO, AudioSuite
from releases import needs_class
from rows import audio_rows
from tiny import TEXT, seeded

import lightkv
from lightkv.adapters.families.vibevoice_asr import VibeVoiceAsrAdapter
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.core.errors import SessionError
from lightkv.testing import Prompt
from lightkv.testing.truth import decoder_inputs, moved

VibeVoiceAsrConfig = needs_class("VibeVoiceAsrConfig")
VibeVoiceAsrForConditionalGeneration = needs_class("VibeVoiceAsrForConditionalGeneration")

HOP = 4
LENGTHS = (62, 40)
"""Samples of the recordings of a prompt; the last hop of the first is not full."""


def tokens_of(samples):
    return -(-samples // HOP)


class TestVibeVoiceAsr(AudioSuite):
    # Without position_ids in its forward generate counts from the cache, which layer 0 shortens.
    first_layer = 1
    cannot = {
        "unequal turns": "its forward takes no position_ids, so generate counts the padding between "
        "two turns as positions"
    }

    def make_model(self, attn_implementation="sdpa", **options):
        encoder = {
            "model_type": "vibevoice_acoustic_tokenizer_encoder",
            "hidden_size": 16,
            "num_filters": 8,
            "downsampling_ratios": [2, 2],
            "depths": [1, 1, 1],
            "kernel_size": 3,
            "initializer_range": 0.3,
            # The noise on the latents would differ from run to run.
            "vae_std": 0.0,
        }
        text = {"model_type": "qwen2", "initializer_range": 0.06, **TEXT}
        config = VibeVoiceAsrConfig(
            acoustic_tokenizer_encoder_config=encoder,
            semantic_tokenizer_encoder_config=encoder,
            text_config=text,
            audio_token_id=AUDIO,
            # The encoders are convolutions, which take no attention implementation.
            attn_implementation={"text_config": attn_implementation},
        )
        return seeded(VibeVoiceAsrForConditionalGeneration, config, **options)

    def make_inputs(self, model, prompts):
        inputs = audio_rows(
            model, prompts, tokens_of, LENGTHS, bins=1, mask="padding_mask", width=64
        )
        if "input_features" in inputs:
            inputs["input_values"] = inputs.pop("input_features")
        return inputs


def layout_of(model, inputs):
    read = read_inputs(VibeVoiceAsrAdapter().input_module(model), (), dict(inputs))
    return VibeVoiceAsrAdapter().layout(model, read)


@pytest.mark.parametrize("number", [0, 1])
def test_the_first_token_that_moves_is_that_of_the_painted_samples(number):
    """The encoders are causal, so later tokens move too, and may move more; earlier ones never do."""
    suite = TestVibeVoiceAsr()
    model = suite.make_model()
    inputs = suite.make_inputs(model, [Prompt(2, 2, 3, seed=1)])
    view = layout_of(model, inputs).samples[0].views[number]
    count = tokens_of(LENGTHS[number])
    assert (view.grid, view.modality) == ((count, 1, 1), "audio")
    before = decoder_inputs(model, model.get_decoder(), inputs)[0]
    for token in sorted({0, count // 2, count - 1}):
        painted = inputs["input_values"].clone()
        painted[number, :, token * HOP : (token + 1) * HOP] += 4.0
        changed = {**inputs, "input_values": painted}
        after = decoder_inputs(model, model.get_decoder(), changed)[0]
        first = (moved(before, after) > 1e-4).nonzero()[0]
        assert int(first) == view.positions[view.cells.tolist().index(token)]


def test_without_a_mask_a_recording_is_as_long_as_its_samples():
    suite = TestVibeVoiceAsr()
    model = suite.make_model()
    ids = torch.tensor([[20, *[AUDIO] * 16, 21]])
    inputs = {"input_ids": ids, "input_values": torch.randn(1, 1, 64)}
    assert layout_of(model, inputs).samples[0].views[0].grid == (16, 1, 1)
    with suite.session(model, ()) as run:
        model(**inputs)
    assert run.last.samples[0].original == 16


def test_generating_after_a_stage_before_layer_0_is_refused():
    suite = TestVibeVoiceAsr()
    model, schedule = suite.make_model(), [{"after_layer": 0, "ratio": 0.5}]
    inputs = suite.make_inputs(model, [Prompt(2, 1, 3)])
    with (
        pytest.raises(SessionError, match="after_layer >= 1"),
        lightkv.compress(model, "random", schedule=schedule),
    ):
        suite.generate(model, inputs)
