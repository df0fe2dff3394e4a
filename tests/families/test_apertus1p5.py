"""The contract of Apertus 1.5: pictures are codes, looked up among the embeddings of the text."""

from types import SimpleNamespace

import pytest
from releases import needs_class
from rows import check_sizes, sized_rows
from tiny import TEXT, seeded
from torch.nn.functional import avg_pool2d

from lightkv.adapters.families.apertus1p5 import Apertus1p5Adapter
from lightkv.testing import AdapterSuite

Apertus1p5Config = needs_class("Apertus1p5Config")
Apertus1p5ForConditionalGeneration = needs_class("Apertus1p5ForConditionalGeneration")
WavTokenizerEncoderConfig = needs_class("WavTokenizerEncoderConfig")

IMAGE, BREAK, END, STEP = 5, 6, 7, 4
CODES = 64


def block(rows, columns):
    """What the processor writes: a break after each row but the last, another token at the end."""
    return [*([*[IMAGE] * columns, BREAK] * rows)[:-1], END]


class TestApertus1p5(AdapterSuite):
    cannot = {"next layer": "refused: its layers have another name for the norm before attention"}

    def make_model(self, attn_implementation="sdpa", **options):
        config = Apertus1p5Config(
            text_config={**TEXT, "vocab_size": 200 + 2 * CODES, "head_dim": 16},
            vision_config={
                "codebook_size": CODES,
                "embed_dim": 8,
                "latent_channels": 8,
                "base_channels": 32,
                "channel_multiplier": [1, 1, 1],
                "num_res_blocks": 1,
                "attn_resolutions": [],
                "resolution": 32,
            },
            audio_config=WavTokenizerEncoderConfig(
                num_filters=4,
                num_lstm_layers=1,
                hidden_size=16,
                codebook_size=CODES,
                codebook_dim=16,
            ),
            image_token_id=IMAGE,
            audio_token_id=8,
            image_token_offset=200,
            audio_token_offset=200 + CODES,
        )
        model = seeded(Apertus1p5ForConditionalGeneration, config, **options)
        # Its tokenizers know eager attention only.
        model.set_attn_implementation({"text_config": attn_implementation})
        return model

    def make_inputs(self, model, prompts):
        return sized_rows(model, prompts, [(4, 6), (5, 3)], STEP, block)


def bright(pixels):
    """Codes of cells: whether they are bright. Random codes would change all over a picture."""
    return SimpleNamespace(image_tokens=(avg_pool2d(pixels, STEP).mean(1) > 1).long())


@pytest.mark.parametrize("image", [0, 1])
def test_layout_truth(image):
    model = TestApertus1p5().make_model()
    model.model.vision_tokenizer.encode = bright
    check_sizes(Apertus1p5Adapter(), model, [(6, 8), (8, 6)], STEP, block, image)
