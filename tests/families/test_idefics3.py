"""The contract of the Idefics3 and SmolVLM adapter: tagged tiles, then the whole picture."""

import re

import pytest
import torch
from rows import check_truth, left_padded, row_ids
from tiny import TEXT
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

from lightkv.adapters.families.idefics3 import Idefics3Adapter
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.core.errors import LayoutError
from lightkv.testing import AdapterSuite
from lightkv.testing.truth import points

IMAGE, AROUND, WHOLE, BREAK, DOUBLE_BREAK, TILE, SIDE = 5, 6, 7, 8, 9, 48, 3
CLASSES = {
    "idefics3": (Idefics3Config, Idefics3ForConditionalGeneration),
    "smolvlm": (SmolVLMConfig, SmolVLMForConditionalGeneration),
}


def tiny(kind, attn_implementation="sdpa", dtype=torch.float32):
    make_config, make_model = CLASSES[kind]
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": TILE,
        "patch_size": 8,
    }
    config = make_config(
        vision_config=vision,
        text_config={"model_type": "llama", **TEXT},
        image_token_id=IMAGE,
        scale_factor=2,
        attn_implementation=attn_implementation,
    )
    torch.manual_seed(0)
    return make_model(config).to(dtype).eval()


def block(rows, columns, *, joined=True):
    """Ids of the string that the processor writes; `joined`: two line breaks are one token."""
    text = get_image_prompt_string(rows, columns, SIDE * SIDE, "<around>", "<image>", "<whole>")
    ids, known = [], {"<image>": IMAGE, "<around>": AROUND, "<whole>": WHOLE}
    known |= {"\n\n": DOUBLE_BREAK, "\n": BREAK}
    for token in re.findall(r"<[^>]+>|\n\n|\n" if joined else r"<[^>]+>|\n", text):
        if match := re.match(r"<row_(\d+)_col_(\d+)>", token):
            known[token] = 100 + 10 * int(match[1]) + int(match[2])
        ids.append(known[token])
    return ids


class TestIdefics3(AdapterSuite):
    """The first image of a prompt is cut into 1 × 2 tiles, others are not cut."""

    kind = "idefics3"

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        return tiny(self.kind, attn_implementation, dtype)

    def make_inputs(self, model, prompts):
        rows = []
        most = max(1, *(prompt.images + 2 for prompt in prompts))
        pixels = torch.zeros(len(prompts), most, 3, TILE, TILE)
        for number, prompt in enumerate(prompts):
            blocks = [block(1, 2) if image == 0 else block(0, 0) for image in range(prompt.images)]
            ids, generator = row_ids(prompt, blocks)
            rows.append(ids)
            tiles = prompt.images + 2 if prompt.images else 0
            pixels[number, :tiles] = torch.randn(tiles, 3, TILE, TILE, generator=generator)
        inputs = left_padded(rows)
        if sum(prompt.images for prompt in prompts):
            inputs["pixel_values"] = pixels.to(model.dtype)
        return inputs

    def options(self, model, prompts):
        return {"adapter": Idefics3Adapter()}


class SmolVLM(TestIdefics3):
    kind = "smolvlm"


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (3, 1)])
def test_layout_truth(kind, joined, rows, columns):
    model, generator = tiny(kind), torch.Generator().manual_seed(1)
    ids = torch.tensor([[50, *block(rows, columns, joined=joined), *block(0, 0), 51]])
    tiles = torch.randn(1, rows * columns + 2, 3, TILE, TILE, generator=generator)
    inputs, size = {"input_ids": ids, "pixel_values": tiles}, TILE // SIDE
    for y, x in points(rows * SIDE, columns * SIDE):
        row, column = int(y * rows * SIDE), int(x * columns * SIDE)
        painted = tiles.clone()
        tile = painted[0, row // SIDE * columns + column // SIDE]
        top, left = row % SIDE * size, column % SIDE * size
        tile[:, top : top + size, left : left + size] += 3.0
        changed = {**inputs, "pixel_values": painted}
        sample = check_truth(Idefics3Adapter(), model, inputs, changed, {0: (0, y, x)})
    grids = [view.grid for view in sample.views]
    assert grids == [(1, rows * SIDE, columns * SIDE), (1, SIDE, SIDE), (1, SIDE, SIDE)]
    assert [view.image for view in sample.views] == [0, 0, 1]


@pytest.mark.parametrize("whole", [1, 2])
def test_layout_truth_of_the_whole_picture(whole):
    model, generator = tiny("smolvlm"), torch.Generator().manual_seed(1)
    ids = torch.tensor([[50, *block(1, 2), *block(0, 0), 51]])
    tiles = torch.randn(1, 4, 3, TILE, TILE, generator=generator)
    inputs, size = {"input_ids": ids, "pixel_values": tiles}, TILE // SIDE
    for y, x in points(SIDE, SIDE):
        painted, top, left = tiles.clone(), int(y * SIDE) * size, int(x * SIDE) * size
        painted[0, 1 + whole, :, top : top + size, left : left + size] += 3.0
        changed = {**inputs, "pixel_values": painted}
        check_truth(Idefics3Adapter(), model, inputs, changed, {whole: (0, y, x)})


def test_tiles_that_form_no_rectangle_stay_apart():
    """Tags that another processor wrote: nothing is stitched, nothing is lost."""
    model = tiny("idefics3")
    tile = [IMAGE] * SIDE * SIDE
    ids = [AROUND, 111, *tile, AROUND, 112, *tile, BREAK, AROUND, 121, *tile, AROUND, WHOLE, *tile]
    inputs = {"input_ids": torch.tensor([ids]), "pixel_values": torch.ones(1, 4, 3, TILE, TILE)}
    layout = Idefics3Adapter().layout(model, read_inputs(model.model, (), inputs))
    assert [view.grid for view in layout.samples[0].views] == [(1, SIDE, SIDE)] * 4


def test_a_run_of_a_wrong_length_is_refused():
    model = tiny("idefics3")
    ids = torch.tensor([[AROUND, WHOLE, *[IMAGE] * 8, AROUND]])
    inputs = {"input_ids": ids, "pixel_values": torch.ones(1, 1, 3, TILE, TILE)}
    with pytest.raises(LayoutError, match="run of 8 image placeholders, but each tile takes 9"):
        Idefics3Adapter().layout(model, read_inputs(model.model, (), inputs))
