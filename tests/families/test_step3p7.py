"""The contract of Step 3.7: tiles and a larger square, heads and rotary bases that differ by layer."""

import pytest
import torch
from releases import PLAIN_BEAMS
from rows import check_truth, left_padded, row_ids
from tiny import TEXT, TOWER, seeded
from transformers import Step3p7Config, Step3p7ForConditionalGeneration

from lightkv.adapters.families.step3p7 import Step3p7Adapter
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.core.errors import LayoutError
from lightkv.testing import AdapterSuite
from lightkv.testing.truth import points

IMAGE, START, END, PATCH_START, PATCH_END, LINE = 5, 6, 7, 8, 9, 10
SMALL, LARGE = 2, 3
WINDOWS = (None, 24, None, 24, None, 24)


def write(rows, columns):
    """Ids of a picture cut into so many tiles, (0, 0) for none."""
    tile, ids = [PATCH_START, *[IMAGE] * SMALL**2, PATCH_END], []
    for row in range(rows):
        ids += [*tile * columns, *([LINE] if row < rows - 1 else [])]
    return [*ids, START, *[IMAGE] * LARGE**2, END]


def pixels_of(cuts, generator):
    tiles = sum(rows * columns for rows, columns in cuts)
    pixels = {
        "pixel_values": torch.randn(len(cuts), 3, 48, 48, generator=generator),
        "num_local_patches": torch.tensor([rows * columns for rows, columns in cuts]),
    }
    if tiles:
        pixels["pixel_values_local"] = torch.randn(tiles, 3, 32, 32, generator=generator)
    return pixels


class TestStep3p7(AdapterSuite):
    """The first image of a prompt has 1 × 2 tiles, others have none."""

    windows = WINDOWS
    cannot = PLAIN_BEAMS

    def make_model(self, attn_implementation="sdpa", **options):
        text = {
            **TEXT,
            "head_dim": 16,
            "num_experts_per_tok": 2,
            "num_local_experts": 4,
            "n_routed_experts": 4,
            "moe_intermediate_size": 32,
            "share_expert_dim": 32,
            "mlp_layer_types": ["dense"] * 2 + ["sparse"] * 4,
            "sliding_window": 24,
            "layer_types": ["sliding_attention" if w else "full_attention" for w in WINDOWS],
            "num_sliding_attention_heads": 6,
            "swiglu_limits": [0.0] * 6,
            "swiglu_limits_shared": [0.0] * 6,
        }
        config = Step3p7Config(
            text_config=text,
            vision_config={**TOWER, "image_size": 48, "patch_size": 4, "mlp_ratio": 2.0},
            image_token_id=IMAGE,
            attn_implementation=attn_implementation,
        )
        return seeded(Step3p7ForConditionalGeneration, config, **options)

    def make_inputs(self, model, prompts):
        rows, pixels = [], []
        for prompt in prompts:
            cuts = [(1, 2), (0, 0)][: prompt.images]
            ids, generator = row_ids(prompt, [write(*cut) for cut in cuts])
            rows.append(ids)
            if cuts:
                pixels.append(pixels_of(cuts, generator))
        inputs = left_padded(rows)
        for name in pixels[0] if pixels else ():
            inputs[name] = torch.cat([own[name] for own in pixels])
        for name in ("pixel_values", "pixel_values_local") if pixels else ():
            inputs[name] = inputs[name].to(model.dtype)
        return inputs


@pytest.mark.parametrize("shape", [(2, 3), (3, 1), (1, 4)])
def test_layout_truth(shape):
    model = TestStep3p7().make_model()
    inputs = pixels_of([shape], torch.Generator().manual_seed(1))
    inputs["input_ids"] = torch.tensor([[20, *write(*shape), 21, 22]])
    for number, (side, size, name) in enumerate(
        ((SMALL, 32, "pixel_values_local"), (LARGE, 48, "pixel_values"))
    ):
        rows, columns = (n * side for n in (shape if number == 0 else (1, 1)))
        step = size // side
        for y, x in points(rows, columns):
            painted = {**inputs, name: inputs[name].clone()}
            row, column = int(y * rows), int(x * columns)
            tile = row // side * (columns // side) + column // side
            top, left = row % side * step, column % side * step
            painted[name][tile, :, top : top + step, left : left + step] += 3.0
            sample = check_truth(Step3p7Adapter(), model, inputs, painted, {number: (0, y, x)})
        assert sample.views[number].grid == (1, rows, columns)


def test_runs_that_are_no_tiles_are_refused():
    model = TestStep3p7().make_model()
    inputs = pixels_of([(1, 2)], torch.Generator())
    inputs["input_ids"] = torch.tensor([[20, *write(1, 1), *[IMAGE] * SMALL**2]])
    with pytest.raises(LayoutError, match="tiles of 2² and pictures of 3² tokens"):
        Step3p7Adapter().layout(model, read_inputs(model.model, (), inputs))
