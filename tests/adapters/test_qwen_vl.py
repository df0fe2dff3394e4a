"""The contract of the Qwen2-VL and Qwen2.5-VL adapter, images and video, and its layout's truth."""

import numpy as np
import pytest
import torch
from tiny import left_padded, tiny_qwen2_5_vl, tiny_qwen2_vl

import lightkv
from lightkv.adapters.inputs import read_inputs
from lightkv.adapters.qwen_vl import QwenVLAdapter
from lightkv.testing import AdapterSuite, Prompt

IMAGE, VIDEO, START, END = 5, 6, 7, 8
GRIDS = [(1, 8, 12), (1, 12, 8), (1, 8, 24)]
"""(frames, rows, columns) of patches before merging 2 × 2; the last one is 3 : 1."""
PIXELS = 3 * 2 * 4 * 4


def tokens_of(grid):
    return grid[0] * grid[1] * grid[2] // 4


def inputs_of(prompts, grids=GRIDS, token=IMAGE, dtype=torch.float32):
    kind = "image" if token == IMAGE else "video"
    rows, own, pixels = [], [], []
    for prompt in prompts:
        generator = torch.Generator().manual_seed(prompt.seed)
        text = torch.randint(10, 200, (prompt.before + prompt.after,), generator=generator)
        parts = [text[: prompt.before]]
        for number in range(prompt.images):
            grid = grids[(prompt.seed + number) % len(grids)]
            places = torch.full((tokens_of(grid),), token)
            parts += [torch.tensor([START]), places, torch.tensor([END])]
            own.append(grid)
            pixels.append(torch.randn(np.prod(grid), PIXELS, generator=generator))
        rows.append(torch.cat([*parts, text[prompt.before :]]))
    ids, mask = left_padded(rows)
    types = (ids == IMAGE).long() + 2 * (ids == VIDEO).long()
    inputs = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": types}
    if own:
        name = "pixel_values" if kind == "image" else "pixel_values_videos"
        inputs[name] = torch.cat(pixels).to(dtype)
        inputs[f"{kind}_grid_thw"] = torch.tensor(own)
    return inputs


class TestQwen25VL(AdapterSuite):
    build = staticmethod(tiny_qwen2_5_vl)

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        return self.build(attn_implementation, dtype)

    def options(self, model, prompts):
        return {"adapter": QwenVLAdapter()}

    def make_inputs(self, model, prompts):
        return inputs_of(prompts, dtype=model.dtype)

    def extended(self, model, inputs, tokens):
        longer = super().extended(model, inputs, tokens)
        types = inputs["mm_token_type_ids"]
        longer["mm_token_type_ids"] = torch.cat([types, types.new_zeros(tokens.shape)], dim=1)
        return longer


class TestQwen2VL(TestQwen25VL):
    build = staticmethod(tiny_qwen2_vl)


def test_video_windows_span_space_and_time():
    model, grid = tiny_qwen2_5_vl(), (4, 8, 12)
    inputs = inputs_of([Prompt(3, 1, 5)], [grid], VIDEO)
    schedule = [{"after_layer": 2, "ratio": 0.5, "windows": {"space": 2, "time": 2}}]
    with lightkv.compress(model, "lightkv", adapter=QwenVLAdapter(), schedule=schedule) as run:
        model.generate(**inputs, max_new_tokens=3, do_sample=False, eos_token_id=None)
    assert run.last.samples[0].vision_tokens == (96, 96, 48, 48, 48, 48)


@pytest.mark.parametrize("build", [tiny_qwen2_5_vl, tiny_qwen2_vl])
@pytest.mark.parametrize("cell", [(0, 0), (1, 7), (3, 11), (2, 4)])
def test_the_painted_patch_moves_the_token_of_its_cell(build, cell):
    """Paint one merged patch of a picture three times as wide as high."""
    model, grid = build(), GRIDS[2]
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(np.prod(grid), PIXELS, generator=generator)
    columns = grid[2] // 2
    first = 4 * (cell[0] * columns + cell[1])
    painted = pixels.clone()
    # The processor groups patches by merge block, so a block is four rows of pixels.
    painted[first : first + 4] += 8
    grids = torch.tensor([grid])
    with torch.no_grad():
        before, after = (
            model.get_image_features(p, grids).pooler_output[0] for p in (pixels, painted)
        )
    moved = int((after - before).norm(dim=-1).argmax())
    ids = torch.tensor([[9, START, *[IMAGE] * tokens_of(grid), END, 9]])
    arguments = {"input_ids": ids, "pixel_values": pixels, "image_grid_thw": grids}
    layout = QwenVLAdapter().layout(model, read_inputs(model.model, (), arguments))
    view = layout.samples[0].views[0]
    assert view.coordinates[moved].tolist() == [0, *cell]
