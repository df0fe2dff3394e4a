"""Layout truth: paint one place of the picture, and the token that moves most is the one it names."""

import pytest
import torch
from test_gemma3 import tiny_gemma3
from test_paligemma import PaliGemma2
from test_paligemma import TestPaliGemma as PaliGemmaSuite
from test_qwen3_vl import END, IMAGE, START, kinds, tiny_qwen3_vl
from test_vipllava import tiny_vipllava
from tiny import tiny_llava, tiny_qwen2_5_vl, tiny_qwen2_vl
from transformers import Qwen2VLImageProcessor

from lightkv.adapters.families.gemma3 import Gemma3Adapter
from lightkv.adapters.families.llava import LlavaAdapter
from lightkv.adapters.families.paligemma import PaliGemmaAdapter
from lightkv.adapters.families.qwen3_vl import Qwen3VLAdapter
from lightkv.adapters.families.qwen_vl import QwenVLAdapter
from lightkv.adapters.families.vipllava import VipLlavaAdapter
from lightkv.adapters.hf.inputs import read_inputs

MAKE_PALIGEMMA = PaliGemmaSuite().make_model
MAKE_PALIGEMMA_2 = PaliGemma2().make_model
del PaliGemmaSuite  # or they would be collected here too


def moved(before, after):
    """The number of the token that changed most."""
    return int((after - before).flatten(0, -2).norm(dim=-1).argmax())


def one_view(adapter, model, ids, inputs):
    inputs = {"input_ids": ids, "token_type_ids": ids * 0, **inputs}
    (view,) = adapter.layout(model, read_inputs(model.model, (), inputs)).samples[0].views
    return view


@pytest.mark.parametrize("cell", [(0, 0), (1, 4), (5, 2)])
@pytest.mark.parametrize(
    ("adapter", "make"),
    [
        (Gemma3Adapter(), tiny_gemma3),
        (LlavaAdapter(), tiny_llava),
        (PaliGemmaAdapter(), MAKE_PALIGEMMA),
        (PaliGemmaAdapter(), MAKE_PALIGEMMA_2),
        (VipLlavaAdapter(), tiny_vipllava),
    ],
    ids=["gemma3", "llava", "paligemma", "paligemma2", "vipllava"],
)
def test_squares(adapter, make, cell):
    model, (row, column) = make(), cell
    pixels = torch.zeros(1, 3, 48, 48)
    painted = pixels.clone()
    painted[:, :, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = 3.0
    with torch.no_grad():
        before, after = (
            torch.as_tensor(
                torch.cat(
                    list(model.get_image_features(pixel_values=p, return_dict=True).pooler_output)
                )
            )
            for p in (pixels, painted)
        )
    view = one_view(adapter, model, torch.tensor([[9, *[5] * 36, 8]]), {"pixel_values": pixels})
    assert view.cells[moved(before, after)] == row * 6 + column


@pytest.mark.parametrize("cell", [(0, 0), (1, 7), (3, 2)])
@pytest.mark.parametrize(
    ("adapter", "make"),
    [
        (Qwen3VLAdapter(), tiny_qwen3_vl),
        (QwenVLAdapter(), tiny_qwen2_5_vl),
        (QwenVLAdapter(), tiny_qwen2_vl),
    ],
    ids=["qwen3_vl", "qwen25_vl", "qwen2_vl"],
)
def test_a_picture_of_three_to_one_from_the_real_processor(adapter, make, cell):
    """Its patches come in blocks of 2 × 2."""
    model, (row, column) = make(), cell
    processor = Qwen2VLImageProcessor(
        patch_size=4, merge_size=2, temporal_patch_size=2, min_pixels=64, max_pixels=8192
    )
    picture = torch.full((3, 32, 96), 127, dtype=torch.uint8)
    painted = picture.clone()
    painted[:, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = 255
    features, grid = [], None
    for shown in (picture, painted):
        made = processor(images=shown, return_tensors="pt")
        grid = made["image_grid_thw"]
        with torch.no_grad():
            out = model.get_image_features(made["pixel_values"], grid, return_dict=True)
        features.append(torch.cat(list(out.pooler_output)))
    ids = torch.tensor([[START, *[IMAGE] * 48, END]])
    inputs = {"mm_token_type_ids": kinds(ids), "pixel_values": made["pixel_values"]}
    view = one_view(adapter, model, ids, {**inputs, "image_grid_thw": grid})
    assert view.grid == (1, 4, 12)
    assert view.cells[moved(*features)] == row * 12 + column
