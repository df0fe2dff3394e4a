"""The contract of the Qwen2-VL and Qwen2.5-VL adapter, images and video, and its layout's truth."""

import numpy as np
import pytest
import torch
from releases import LATER_IMAGE
from rows import END, IMAGE, PIXELS, START, VIDEO, grid_rows, grid_tokens, grids_later
from tiny import tiny_qwen2_5_vl, tiny_qwen2_vl

import lightkv
from lightkv.adapters.families.qwen_vl import QwenVLAdapter
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.testing import AdapterSuite, Prompt
from lightkv.testing.oracles import Recorder

GRIDS = [(1, 8, 12), (1, 12, 8), (1, 8, 24)]
"""(frames, rows, columns) of patches before merging 2 × 2; the last one is 3 : 1."""


def inputs_of(prompts, grids=GRIDS, token=IMAGE, dtype=torch.float32):
    return grid_rows(prompts, grids, token, dtype)


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


class Qwen2VL(TestQwen25VL):
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
    ids = torch.tensor([[9, START, *[IMAGE] * grid_tokens(grid), END, 9]])
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


@pytest.mark.parametrize("policy", ["renumber-contiguous", "keep-contiguous"])
@pytest.mark.parametrize("later", [Prompt(2, 0, 3, seed=7), Prompt(2, 1, 3, seed=7)])
def test_contiguous_positions_follow_what_a_layer_kept(policy, later):
    """One by one behind its entries, although a picture took up fewer positions than tokens."""
    suite, prompts = TestQwen25VL(), (Prompt(2, 1, 3, seed=1),)
    model = suite.make_model()
    decoder = model.get_decoder()
    inputs = suite.make_inputs(model, prompts)
    for layer in (2, 5):
        with (
            suite.session(model, prompts, positions=policy),
            Recorder.on(decoder, decoder.layers[layer]) as recorder,
        ):
            first = suite.generate(model, inputs)
            begins = first.past_key_values.layers[layer].keys.shape[2] - suite.steps + 1
            call = suite._next_turn(model, first, prompts, later)
            second = suite.generate(model, call, past_key_values=first.past_key_values)
        text = [tables for tables in recorder.rotary if tables[0].shape[1] == 1]
        last = second.past_key_values.layers[layer].keys.shape[2]
        held = [*range(begins, begins + suite.steps - 1), *range(last - suite.steps + 1, last)]
        for place, tables in zip(held, text, strict=True):
            wanted = decoder.rotary_emb(torch.zeros(1), torch.full((3, 1, 1), place))
            torch.testing.assert_close(tables, tuple(wanted))
        if not later.images:
            tables = next(t for t in recorder.rotary[1:] if t[0].shape[1] > 1)
            places = torch.arange(begins + suite.steps - 1, last - suite.steps + 1)
            wanted = decoder.rotary_emb(torch.zeros(1), places.expand(3, 1, -1))
            torch.testing.assert_close(tables, tuple(wanted))


def test_contiguous_positions_follow_a_cache_that_was_shortened():
    suite, prompts = TestQwen25VL(), (Prompt(2, 1, 3, seed=1),)
    model = suite.make_model()
    decoder = model.get_decoder()
    schedule = suite.schedule_of("elastic-cache")
    with (
        suite.session(model, prompts, "elastic-cache", schedule=schedule),
        Recorder.on(decoder, decoder.layers[3]) as recorder,
    ):
        out = suite.generate(model, suite.make_inputs(model, prompts))
    last = out.past_key_values.layers[3].keys.shape[2]
    text = recorder.rotary[1:]
    for place, tables in zip(range(last - suite.steps + 1, last), text, strict=True):
        wanted = decoder.rotary_emb(torch.zeros(1), torch.full((3, 1, 1), place))
        torch.testing.assert_close(tables, tuple(wanted))


@pytest.mark.parametrize("axes", [None, 3, 4])
def test_generic_renumbers_positions_of_several_axes(axes):
    """Given or not: the decoder alone, told where the picture is, as its own adapter does it."""
    model, prompts = tiny_qwen2_5_vl(), (Prompt(2, 1, 3, seed=1),)
    inputs = inputs_of(prompts)
    decoder, schedule = model.get_decoder(), [{"after_layer": 2, "ratio": 0.5}]
    with torch.no_grad(), Recorder.on(decoder, decoder.layers[0]) as recorder:
        with lightkv.compress(model, "random", schedule=schedule, positions="renumber"):
            wanted = model.model(**inputs).last_hidden_state
        embeddings = model.get_input_embeddings()(inputs["input_ids"])
        features = model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
        embeddings[inputs["input_ids"] == IMAGE] = torch.cat(list(features.pooler_output))
    places = recorder.position_ids[0]
    given = {None: None, 3: places[-3:], 4: places}[axes]
    layout = lightkv.VisionLayout.from_spans([[(3, (1, 6, 4))]])
    options = {"schedule": schedule, "positions": "renumber", "layout": layout}
    with torch.no_grad(), lightkv.compress(decoder, "random", adapter="generic", **options):
        found = decoder(inputs_embeds=embeddings, position_ids=given).last_hidden_state
    if axes is None:
        assert found.shape == wanted.shape
    else:
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
