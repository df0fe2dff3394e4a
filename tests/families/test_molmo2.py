"""The contract of the Molmo 2 adapter: a small and a large view of each image, one two-way block."""

import pytest
import torch
from releases import needs_class
from rows import check_truth, left_padded, row_ids
from tiny import TEXT

from lightkv.adapters.families.molmo2 import Molmo2Adapter
from lightkv.testing import AdapterSuite
from lightkv.testing.adapters import MIXED
from lightkv.testing.oracles import causal_mask
from lightkv.testing.truth import points

Molmo2Config = needs_class("Molmo2Config")
Molmo2ForConditionalGeneration = needs_class("Molmo2ForConditionalGeneration")

IMAGE, START, END, LOW, COLUMN, FRAME, FRAME_END = 5, 3, 4, 14, 16, 15, 17
SMALL, LARGE, CLIP = (3, 3), (4, 5), (3, 3, 3)
"""Cells of the two views, and frames, rows and columns of a clip."""
CROP, CROPS = 36, 6
"""Patches of a crop of 24 × 24 pixels; crops of the large view, 2 × 3 with a margin of a patch."""


def tiny_molmo2(attn_implementation="sdpa", dtype=torch.float32, **text):
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "num_channels": 3,
        "patch_size": 4,
        "image_size": [24, 24],
        "num_position_embeddings": CROP,
    }
    pooler = {
        "vision_feature_layer": [-1, -2],
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 48,
        "text_hidden_size": 64,
    }
    config = Molmo2Config(
        text_config={**TEXT, "head_dim": 16, "additional_vocab_size": 16, **text},
        vision_config=vision,
        adapter_config=pooler,
        image_patch_id=IMAGE,
        image_start_token_id=START,
        image_end_token_id=END,
        low_res_image_start_token_id=LOW,
        frame_start_token_id=FRAME,
        frame_end_token_id=FRAME_END,
        attn_implementation=attn_implementation,
    )
    torch.manual_seed(0)
    return Molmo2ForConditionalGeneration(config).to(dtype).eval()


def pooled(grid):
    """`[cells, 4]` patches of each cell of 2 × 2 of a grid of patch numbers."""
    rows, columns = grid.shape
    return grid.view(rows // 2, 2, columns // 2, 2).transpose(1, 2).reshape(-1, 4)


def pooling_of_image():
    """The small view is the first crop; of the large one crops lose their margins inside."""
    numbers = torch.arange(CROP * 6).view(2, 3, 6, 6) + CROP
    rows = [torch.cat([band[0][:, :5], band[1][:, 1:5], band[2][:, 1:2]], 1) for band in numbers]
    large = torch.cat([rows[0][:5], rows[1][1:4]])
    return torch.cat([pooled(torch.arange(CROP).view(6, 6)), pooled(large)])


def block(size):
    rows, columns = size
    return [*([IMAGE] * columns + [COLUMN]) * rows, END]


IMAGE_IDS = [LOW, *[IMAGE] * 9, END, START, *block(LARGE)]


def kinds(ids):
    return torch.isin(ids, torch.tensor([IMAGE, START, END, LOW, COLUMN, FRAME, FRAME_END])).long()


class TestMolmo2(AdapterSuite):
    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        return tiny_molmo2(attn_implementation, dtype)

    def make_inputs(self, model, prompts):
        made = [row_ids(prompt, [IMAGE_IDS] * prompt.images) for prompt in prompts]
        inputs = left_padded([ids for ids, _ in made])
        inputs["mm_token_type_ids"] = kinds(inputs["input_ids"])
        count = sum(prompt.images for prompt in prompts)
        if count:
            crops = 1 + CROPS
            pixels = [
                torch.randn(prompt.images * crops, CROP, 48, generator=generator)
                for prompt, (_, generator) in zip(prompts, made, strict=True)
            ]
            inputs["pixel_values"] = torch.cat(pixels).to(model.dtype)
            first = torch.arange(count)[:, None, None] * crops * CROP
            inputs["image_token_pooling"] = (pooling_of_image() + first).flatten(0, 1)
            inputs["image_grids"] = torch.tensor([[*SMALL, *LARGE]] * count)
            inputs["image_num_crops"] = torch.tensor([crops] * count)
        return inputs

    def extended(self, model, inputs, tokens):
        whole, own = super().extended(model, inputs, tokens), inputs["mm_token_type_ids"]
        return {**whole, "mm_token_type_ids": torch.cat([own, kinds(tokens)], dim=1)}

    def joined(self, first, later):
        """Patches are numbered over all pixels; images of a later turn are a block of their own."""
        later = dict(later)
        if "pixel_values" in first and "pixel_values" in later:
            later["image_token_pooling"] = (
                later["image_token_pooling"] + first["pixel_values"].shape[0] * CROP
            )
        later["mm_token_type_ids"] = 2 * later["mm_token_type_ids"]
        return super().joined(first, later)

    def own_masks(self, model, inputs):
        block = inputs["mm_token_type_ids"]
        same = (block[:, :, None] == block[:, None]) & (block > 0)[:, :, None]
        return [causal_mask(block.shape[1])[None] | same] * 6

    def later_call(self, model, whole, later):
        call = super().later_call(model, whole, later)
        return {**call, "mm_token_type_ids": call["mm_token_type_ids"].clamp(max=1)}

    def options(self, model, prompts):
        return {"adapter": Molmo2Adapter()}


SUITE = TestMolmo2()


class Clips(TestMolmo2):
    """A video instead of each image: frames of one small view, a timestamp before each."""

    def make_inputs(self, model, prompts):
        frames, rows, columns = CLIP
        clip = [
            id
            for frame in range(frames)
            for id in (20 + frame, FRAME, *[IMAGE] * rows * columns, FRAME_END)
        ]
        made = [row_ids(prompt, [clip] * prompt.images) for prompt in prompts]
        inputs = left_padded([ids for ids, _ in made])
        inputs["mm_token_type_ids"] = kinds(inputs["input_ids"])
        count = sum(prompt.images for prompt in prompts)
        if count:
            pixels = [
                torch.randn(p.images * frames, CROP, 48, generator=g)
                for p, (_, g) in zip(prompts, made, strict=True)
            ]
            inputs["pixel_values_videos"] = torch.cat(pixels).to(model.dtype)
            numbers = torch.arange(count * frames * CROP).view(-1, 6, 6)
            inputs["video_token_pooling"] = torch.cat([pooled(frame) for frame in numbers])
            inputs["video_grids"] = torch.tensor([CLIP] * count)
        return inputs


def test_clips_dropping_equals_masking_and_a_batch_its_rows():
    suite, model = Clips(), tiny_molmo2()
    found, wanted = suite.drop_and_mask(model, MIXED, "random", eager=False)
    torch.testing.assert_close(found, wanted, atol=suite.exact, rtol=0)
    suite.test_batch_equals_single("sdpa", "lightkv")


def test_layout_truth():
    """The patch of each crop that the large view reads is painted; then those of the small one."""
    model = tiny_molmo2()
    inputs = SUITE.make_inputs(model, MIXED[:1])
    numbers = pooling_of_image()
    for view, first, (rows, columns) in ((0, 0, SMALL), (1, 9, LARGE)):
        for y, x in points(rows, columns):
            painted = {**inputs, "pixel_values": inputs["pixel_values"].clone()}
            cell = first + int(y * rows) * columns + int(x * columns)
            painted["pixel_values"].view(-1, 48)[numbers[cell]] += 3.0
            sample = check_truth(Molmo2Adapter(), model, inputs, painted, {view: (0, y, x)})
    assert [view.grid for view in sample.views] == [(1, *SMALL), (1, *LARGE)]


def test_layout_truth_of_a_clip():
    model = tiny_molmo2()
    inputs = Clips().make_inputs(model, MIXED[:1])
    for frame in range(CLIP[0]):
        for y, x in points(*CLIP[1:]):
            painted = {**inputs, "pixel_values_videos": inputs["pixel_values_videos"].clone()}
            rows = slice(2 * int(y * 3), 2 * int(y * 3) + 2)
            columns = slice(2 * int(x * 3), 2 * int(x * 3) + 2)
            painted["pixel_values_videos"].view(-1, 6, 6, 48)[frame, rows, columns] += 3.0
            check_truth(Molmo2Adapter(), model, inputs, painted, {0: (frame, y, x)})


@pytest.mark.parametrize("positions", ["renumber", "keep"])
def test_scaled_and_unscaled_layers_get_tables_of_their_own(positions):
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
    model = tiny_molmo2(rope_parameters=rope, rope_scaling_layers=[0, 5])
    inputs, seen = SUITE.make_inputs(model, MIXED[:1]), {}

    def look(layer, args, kwargs):
        seen[layer.self_attn.layer_idx] = kwargs["position_embeddings"][0]

    decoder = model.get_decoder()
    with SUITE.session(model, [], "random", positions=positions) as run, torch.no_grad():
        handles = [
            layer.register_forward_pre_hook(look, with_kwargs=True) for layer in decoder.layers
        ]
        model(**inputs)
        assert run.last.retention < 1
    for handle in handles:
        handle.remove()
    assert seen[4].shape == seen[5].shape
    assert not torch.equal(seen[4], seen[5])
    if positions == "renumber":
        places = torch.arange(seen[5].shape[1])[None]
        for layer, emb in ((4, decoder.rotary_emb_unscaled), (5, decoder.rotary_emb)):
            assert torch.equal(seen[layer], emb(torch.zeros(1), position_ids=places)[0])


def test_a_prompt_of_pictures_after_one_of_videos():
    """They share a placeholder, and the first run left its sizes behind."""
    model = tiny_molmo2()
    with SUITE.session(model, []) as run, torch.no_grad():
        for suite, tokens in ((Clips(), 27), (SUITE, 29), (Clips(), 27)):
            inputs = suite.make_inputs(model, MIXED[:1])
            model(**inputs)
            assert run.last.samples[0].original == tokens
            suite.generate(model, inputs)
            assert run.last.samples[0].original == tokens
