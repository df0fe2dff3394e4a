"""InternVL2 checkpoints, converted: the native class computes what the stand-in of the original does."""

import pytest
import torch
from standins.chat_checkpoint import CONTEXT, write_checkpoint
from tiles import TILE, cut, smooth
from transformers import InternVLForConditionalGeneration

from lightkv.checkpoints.convert import convert_internvl2

TOKENS = 9
"""Vision tokens of a tile."""
LARGE_TOWER = {"norm_type": "rms_norm", "qk_normalization": True, "qkv_bias": False}


def call_of(tiles=4):
    """A left-padded batch: one row with a cut picture and a second one, one with a picture alone."""
    generator = torch.Generator().manual_seed(3)
    pixels = torch.cat(
        [
            cut(smooth(1, tiles, generator), 1, tiles),
            torch.randn(2, 3, TILE, TILE, generator=generator),
        ]
    )
    first = [7, *[CONTEXT] * TOKENS * (tiles + 1), 8, *[CONTEXT] * TOKENS, 9, 10]
    second = [11, 12, *[CONTEXT] * TOKENS, 13]
    ids = torch.tensor([first, [0] * (len(first) - len(second)) + second])
    mask = torch.ones_like(ids)
    mask[1, : len(first) - len(second)] = 0
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


def both(model, folder, call):
    """Logits of the original and of the converted model; rows of padding are nobody's."""
    places = (call["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    native = InternVLForConditionalGeneration.from_pretrained(folder).eval()
    flags = torch.ones(len(call["pixel_values"]), 1)
    real = call["attention_mask"].bool()
    with torch.no_grad():
        wanted = model(**call, position_ids=places, image_flags=flags).logits[real]
        found = native(**call, position_ids=places).logits[real]
    return wanted, found


@pytest.mark.parametrize(
    ("decoder", "changes"),
    [
        ("internlm2", {}),
        ("internlm2", {"text": {"rope_scaling": {"type": "linear", "factor": 4.0}, "bias": True}}),
        ("internlm2", {"vision": LARGE_TOWER, "text": {"rope_scaling": None}, "select_layer": -2}),
        ("internlm2", {"text": {"max_position_embeddings": 32}}),
        ("internlm2", {"vision": {"image_size": 64}}),
        ("qwen2", {"text": {"tie_word_embeddings": True}}),
        ("qwen2", {}),
        ("llama", {}),
    ],
    ids=["dynamic", "linear", "large tower", "past the table", "places", "tied", "qwen2", "llama"],
)
def test_logits_are_those_of_the_original(decoder, changes, tmp_path):
    model = write_checkpoint(tmp_path / "source", decoder, **changes)
    done = convert_internvl2(tmp_path / "source", tmp_path / "out")
    assert done.shards == 3
    assert not done.kept
    wanted, found = both(model, tmp_path / "out", call_of())
    assert wanted.std() > 0.5
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
