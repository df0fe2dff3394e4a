"""The contract of the Qwen3-VL adapter, on a tiny model with random weights."""

import pytest
import torch
from releases import LATER_IMAGE
from rows import grids_later, left_padded, row_ids
from tiny import TEXT
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

import lightkv
from lightkv.adapters.families.qwen3_vl import Qwen3VLAdapter
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.checkpoints.describe import describe
from lightkv.cli.plan.options import build_pipeline
from lightkv.core.errors import ConfigError
from lightkv.testing import AdapterSuite, Prompt
from lightkv.testing.adapters import MIXED

IMAGE, VIDEO, START, END = 5, 6, 7, 8
GRIDS = ((1, 8, 12), (1, 12, 8), (1, 8, 16))
"""(frames, rows, columns) of patches before merging; images of a batch differ in size."""
CLIP = (3, 8, 8)
DEEP = 3


def tiny_qwen3_vl(attn_implementation="sdpa", dtype=torch.float32, layers=9):
    rope = {
        "rope_type": "default",
        "rope_theta": 1e4,
        "mrope_section": [4, 2, 2],
        "mrope_interleaved": True,
    }
    text = {**TEXT, "num_hidden_layers": layers, "head_dim": 16, "rope_parameters": rope}
    vision = {
        "depth": 3,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 4,
        "out_hidden_size": 64,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1, 2],
    }
    config = Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
        attn_implementation=attn_implementation,
    )
    torch.manual_seed(0)
    return Qwen3VLForConditionalGeneration(config).to(dtype).eval()


def patches(grids, generator):
    count = sum(t * h * w for t, h, w in grids)
    return torch.randn(count, 3 * 2 * 4 * 4, generator=generator)


def row_of(prompt):
    grids = [GRIDS[(prompt.seed + n) % len(GRIDS)] for n in range(prompt.images)]
    images = [[START, *[IMAGE] * (h * w // 4), END] for _, h, w in grids]
    ids, generator = row_ids(prompt, images, apart=False)
    return ids, patches(grids, generator), grids


def kinds(ids):
    return (ids == IMAGE).int() + 2 * (ids == VIDEO).int()


class TestQwen3VL(AdapterSuite):
    schedule = (
        {"after_layer": 4, "ratio": 0.5, "windows": 2},
        {"after_layer": 6, "ratio": 0.5, "windows": 1},
    )
    first_layer = DEEP
    cannot = LATER_IMAGE

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        return tiny_qwen3_vl(attn_implementation, dtype)

    def make_inputs(self, model, prompts):
        rows, pixels, grids = zip(*(row_of(prompt) for prompt in prompts), strict=True)
        inputs = left_padded(rows)
        inputs["mm_token_type_ids"] = kinds(inputs["input_ids"])
        if any(grids):
            inputs["pixel_values"] = torch.cat(pixels).to(model.dtype)
            inputs["image_grid_thw"] = torch.tensor([grid for own in grids for grid in own])
        return inputs

    def extended(self, model, inputs, tokens):
        whole = super().extended(model, inputs, tokens)
        return {**whole, "mm_token_type_ids": kinds(whole["input_ids"])}

    def options(self, model, prompts):
        return {"adapter": Qwen3VLAdapter()}

    def later_call(self, model, whole, later):
        return grids_later(model, whole, later)


class Clips(TestQwen3VL):
    """Prompts that hold clips instead of images: a run of tokens for each temporal patch."""

    def make_inputs(self, model, prompts):
        tokens = CLIP[1] * CLIP[2] // 4
        rows, clips = [], 0
        for prompt in prompts:
            run = [START, *[VIDEO] * tokens, END]
            clip = [id for frame in range(CLIP[0]) for id in (20 + frame, *run)]
            rows.append(row_ids(prompt, [clip] * prompt.images)[0])
            clips += prompt.images
        inputs = left_padded(rows)
        inputs["mm_token_type_ids"] = kinds(inputs["input_ids"])
        if clips:
            videos = [
                patches([CLIP] * p.images, torch.Generator().manual_seed(p.seed)) for p in prompts
            ]
            inputs["pixel_values_videos"] = torch.cat(videos).to(model.dtype)
            inputs["video_grid_thw"] = torch.tensor([CLIP] * clips)
        return inputs

    def vision_mask(self, model, inputs, prompts):
        return inputs["input_ids"] == VIDEO


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_dropping_from_clips_equals_masking(attention):
    suite = Clips()
    model = suite.make_model(attention)
    found, wanted = suite.drop_and_mask(model, MIXED, "random", eager=attention == "eager")
    torch.testing.assert_close(found, wanted, atol=suite.exact, rtol=0)


def test_a_batch_of_clips_equals_its_rows():
    Clips().test_batch_equals_single("sdpa", "lightkv")


@pytest.mark.parametrize("later", [Prompt(3, 1, 4, seed=7), Prompt(3, 0, 4, seed=7)])
def test_later_turns_after_clips(later):
    suite, first = Clips(), (Prompt(2, 1, 3, seed=1), Prompt(5, 1, 6, seed=2))
    if later.images:
        suite.need("later image")
    found, wanted, _ = suite.converse(suite.make_model(), first, later, "random", eager=False)
    torch.testing.assert_close(found, wanted, atol=suite.exact, rtol=0)


def test_windows_over_space_and_time_of_clips():
    suite = Clips()
    model, windows = suite.make_model(), {"space": 2, "time": 3}
    schedule = [{"after_layer": 4, "ratio": 0.5, "windows": windows}]
    prompts = (Prompt(2, 1, 3),)
    with suite.session(model, prompts, schedule=schedule) as run:
        suite.generate(model, suite.make_inputs(model, prompts))
    assert run.last.samples[0].vision_tokens == (48,) * 4 + (24,) * 5


def test_a_video_is_one_view_of_frames_that_stand_apart():
    model, suite = tiny_qwen3_vl(), Clips()
    inputs = suite.make_inputs(model, [Prompt(2, 1, 3)])
    layout = Qwen3VLAdapter().layout(model, read_inputs(model.model, (), inputs))
    (view,) = layout.samples[0].views
    assert view.grid == (3, 4, 4)
    assert view.cells.tolist() == list(range(48))
    assert view.positions[[0, 15, 16, 47]].tolist() == [4, 19, 23, 57]


def test_images_and_videos_in_one_prompt_follow_their_places():
    model = tiny_qwen3_vl()
    ids = torch.tensor([[9, START, *[VIDEO] * 4, END, *[VIDEO] * 4, 9, *[IMAGE] * 6, 9]])
    inputs = {
        "input_ids": ids,
        "mm_token_type_ids": kinds(ids),
        "pixel_values": torch.randn(24, 96),
        "image_grid_thw": torch.tensor([[1, 4, 6]]),
        "pixel_values_videos": torch.randn(32, 96),
        "video_grid_thw": torch.tensor([[2, 4, 4]]),
    }
    layout = Qwen3VLAdapter().layout(model, read_inputs(model.model, (), inputs))
    assert [view.grid for view in layout.samples[0].views] == [(2, 2, 2), (1, 2, 3)]
    assert [view.image for view in layout.samples[0].views] == [0, 1]


def test_nothing_is_compressed_before_the_last_added_features():
    model, adapter = tiny_qwen3_vl(), Qwen3VLAdapter()
    early = [{"after_layer": DEEP - 1, "ratio": 0.5}]
    for source, changes in (("lightkv", {"schedule": early}), ("fastv", {})):
        run = lightkv.compress(model, source, adapter=adapter, **changes)
        with pytest.raises(ConfigError, match=r"first 3 layers .* every vision token.*use 3 … 8"):
            run.__enter__()
    with lightkv.compress(model, "lightkv", adapter=adapter, retention=0.7) as run:
        assert run.pipeline.schedule.after_layers[0] >= DEEP


def test_plans_keep_to_the_first_layers_too(tmp_path, monkeypatch):
    """`lightkv plan` solves and refuses as a session does."""
    tiny_qwen3_vl().config.save_pretrained(tmp_path)
    # Whether the adapter is registered depends on the metadata of the installed package.
    monkeypatch.setattr("lightkv.core.run.adapter.find_adapter", lambda *_: Qwen3VLAdapter())
    found = describe(str(tmp_path))
    options = {"windows": None, "ratios": None, "min_layer": found.min_layer}
    layers = found.shape.num_layers
    solved = build_pipeline("lightkv", layers, 0.7, None, **options)
    assert solved.schedule.after_layers[0] >= DEEP
    with pytest.raises(ConfigError, match="use 3 … 8"):
        build_pipeline("lightkv", layers, None, "2", **options)


def test_the_first_stage_may_follow_the_last_added_features_at_once():
    """The additions reach the survivors: the same law, with a stage right after them."""
    suite = TestQwen3VL()
    model, prompts = suite.make_model(), (Prompt(2, 1, 3, seed=1),)
    schedule = [{"after_layer": DEEP, "ratio": 0.5}]
    found, wanted = suite.drop_and_mask(model, prompts, "random", eager=False, schedule=schedule)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
