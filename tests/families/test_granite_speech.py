"""The contract of Granite Speech: learned queries for each window of frames."""

import pytest
import torch
import transformers
from audio import AUDIO, BINS, AudioSuite
from rows import audio_rows
from tiny import TEXT, seeded
from transformers import (
    Blip2QFormerConfig,
    GraniteConfig,
    GraniteSpeechConfig,
    GraniteSpeechForConditionalGeneration,
)

from lightkv.adapters.families.granite_speech import GraniteSpeechAdapter
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.testing import Prompt
from lightkv.testing.truth import decoder_inputs, moved

WINDOW, QUERIES, LENGTHS = 15, 3, (120, 80)
ENCODER = {
    "input_dim": BINS,
    "num_layers": 2,
    "hidden_dim": 32,
    "feedforward_mult": 2,
    "num_heads": 2,
    "dim_head": 16,
    "output_dim": 8,
    "context_size": 20,
    "max_pos_emb": 32,
    "conv_kernel_size": 3,
}


def tokens(frames):
    return -(-frames // WINDOW) * QUERIES


def recordings(model, prompts):
    """The mask of this family is one of tokens."""
    inputs = audio_rows(model, prompts, tokens, LENGTHS, bins=BINS, time=1)
    counts = [tokens(length) for prompt in prompts for length in LENGTHS[: prompt.images]]
    if counts:
        width = tokens(inputs["input_features"].shape[1])
        inputs["input_features_mask"] = torch.arange(width) < torch.tensor(counts)[:, None]
    return inputs


def config_of(kind, encoder, attn_implementation="sdpa", width=32):
    """A config of one of the two classes; the encoder gives `width` numbers for each frame."""
    return kind(
        text_config=GraniteConfig(**TEXT),
        encoder_config=encoder,
        projector_config=Blip2QFormerConfig(
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=48,
            encoder_hidden_size=width,
            cross_attention_frequency=1,
        ),
        audio_token_index=AUDIO,
        has_lora_adapter=False,
        downsample_rate=WINDOW // QUERIES,
        window_size=WINDOW,
        attn_implementation=attn_implementation,
    )


class TestGraniteSpeech(AudioSuite):
    cannot = {"gradient checkpointing": "transformers does not support it for the model"}

    def make_model(self, attn_implementation="sdpa", **options):
        config = config_of(GraniteSpeechConfig, ENCODER, attn_implementation)
        return seeded(GraniteSpeechForConditionalGeneration, config, **options)

    def make_inputs(self, model, prompts):
        return recordings(model, prompts)


def test_windows_are_in_order():
    """Paint in a window of frames moves the queries of that window most."""
    model = TestGraniteSpeech().make_model()
    inputs = recordings(model, [Prompt(2, 1, 3)])
    read = read_inputs(model.model, (), dict(inputs))
    view = GraniteSpeechAdapter().layout(model, read).samples[0].views[0]
    before = decoder_inputs(model, model.get_decoder(), inputs)[0]
    for window in (0, 3, 7):
        features = inputs["input_features"].clone()
        features[:, window * WINDOW : (window + 1) * WINDOW] += 4.0
        painted = {**inputs, "input_features": features}
        after = decoder_inputs(model, model.get_decoder(), painted)[0]
        far = moved(before, after)[torch.as_tensor(view.positions)]
        assert int(far.argmax()) // QUERIES == window


def test_without_a_mask_all_tokens_count():
    model = TestGraniteSpeech().make_model()
    inputs = recordings(model, [Prompt(2, 1, 3)])
    del inputs["input_features_mask"]
    layout = GraniteSpeechAdapter().layout(model, read_inputs(model.model, (), inputs))
    assert layout.samples[0].views[0].grid == (24, 1, 1)


class Plus(TestGraniteSpeech):
    """The encoder of Granite Speech Plus, which gives the states of inner layers too."""

    __test__ = False

    def make_model(self, attn_implementation="sdpa", **options):
        kind = getattr(transformers, "GraniteSpeechPlusConfig", None)
        if kind is None:
            pytest.skip("cannot: this transformers has no Granite Speech Plus")
        config = config_of(kind, {**ENCODER, "cat_hidden_layers": [1]}, attn_implementation, 64)
        return seeded(transformers.GraniteSpeechPlusForConditionalGeneration, config, **options)


@pytest.mark.parametrize("pipeline", ["lightkv", "fastv"])
def test_granite_speech_plus(pipeline):
    suite = Plus()
    suite.batch_and_alone(suite.make_model(), pipeline)
    found = suite.drop_and_mask(suite.make_model(), suite.batch, "fastv", eager=False)
    suite.check_close(*found)
