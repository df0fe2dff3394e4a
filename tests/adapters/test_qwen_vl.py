"""The contract of the Qwen2-VL and Qwen2.5-VL adapter, images and video, and its layout's truth."""

import numpy as np
import pytest
import torch
from releases import LATER_IMAGE
from rows import grids_later, left_padded, row_ids
from tiny import tiny_qwen2_5_vl, tiny_qwen2_vl

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
        grid_of = [grids[(prompt.seed + n) % len(grids)] for n in range(prompt.images)]
        ids, generator = row_ids(prompt, [[START, *[token] * tokens_of(g), END] for g in grid_of])
        rows.append(ids)
        own += grid_of
        pixels += [torch.randn(np.prod(g), PIXELS, generator=generator) for g in grid_of]
    inputs = left_padded(rows)
    ids = inputs["input_ids"]
    inputs["mm_token_type_ids"] = (ids == IMAGE).long() + 2 * (ids == VIDEO).long()
    if own:
        name = "pixel_values" if kind == "image" else "pixel_values_videos"
        inputs[name] = torch.cat(pixels).to(dtype)
        inputs[f"{kind}_grid_thw"] = torch.tensor(own)
    return inputs


class TestQwen25VL(AdapterSuite):
    build = staticmethod(tiny_qwen2_5_vl)
    cannot = LATER_IMAGE

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

    def later_call(self, model, whole, later):
        return grids_later(model, whole, later)


class TestQwen2VL(TestQwen25VL):
    build = staticmethod(tiny_qwen2_vl)


class Films(TestQwen25VL):
    """Prompts that hold a video of 64 frames: 32 temporal patches of 8 × 8 tokens."""

    grid = (32, 16, 16)
    schedule = (
        {"after_layer": 2, "ratio": 0.5, "windows": {"space": 4, "time": 2}},
        {"after_layer": 4, "ratio": 0.5, "windows": {"space": 2, "time": 1}},
    )

    def make_inputs(self, model, prompts):
        return inputs_of(prompts, [self.grid], VIDEO, dtype=model.dtype)

    def vision_mask(self, model, inputs, prompts):
        return inputs["input_ids"] == VIDEO


FILM = (Prompt(3, 1, 5, seed=1),)


def test_video_windows_span_space_and_time():
    suite = Films()
    model = suite.make_model()
    with suite.session(model, FILM) as run:
        suite.generate(model, suite.make_inputs(model, FILM))
    assert run.last.samples[0].vision_tokens == (2048, 2048, 1024, 1024, 512, 512)


def test_dropping_from_a_film_equals_masking():
    suite = Films()
    model = suite.make_model()
    found, wanted = suite.drop_and_mask(model, FILM, "random", eager=False)
    torch.testing.assert_close(found, wanted, atol=suite.exact, rtol=0)


def test_a_film_may_come_in_a_later_turn():
    suite = Films()
    suite.need("later image")
    suite.grid = (4, 16, 8)
    model = suite.make_model()
    first = (Prompt(2, 1, 3, seed=1), Prompt(5, 1, 6, seed=2))
    found, wanted, _ = suite.converse(model, first, Prompt(3, 1, 4), "random", eager=False)
    torch.testing.assert_close(found, wanted, atol=suite.exact, rtol=0)


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


class Thumbnails(TestQwen25VL):
    """Pictures of fewer rows or columns than the windows of the default preset."""

    grids = ((1, 6, 80), (1, 4, 4), (1, 2, 4), (1, 2, 2))
    batch = tuple(Prompt(4, 1, 3, seed) for seed in range(4))
    schedule = tuple(
        {"after_layer": a, "ratio": 0.5, "windows": w} for a, w in ((2, 4), (3, 2), (4, 1))
    )

    def make_inputs(self, model, prompts):
        return inputs_of(prompts, list(self.grids), dtype=model.dtype)


@pytest.mark.parametrize("pipeline", ["lightkv", "lightkv-plus", "lightkv-release"])
def test_thumbnails_end_no_request(pipeline):
    suite = Thumbnails()
    if pipeline != "lightkv-release":
        suite.test_batch_equals_single("sdpa", pipeline)
    model = suite.make_model()
    with lightkv.compress(model, pipeline, adapter=QwenVLAdapter()) as run:
        for prompt in suite.batch:
            suite.generate(model, suite.make_inputs(model, [prompt]))
    kept = [report.samples[0].vision_tokens[-1] for report in run.reports]
    assert kept[0] < 120
    assert all(0 < left <= 4 for left in kept[1:])
    assert kept[-1] == 1
