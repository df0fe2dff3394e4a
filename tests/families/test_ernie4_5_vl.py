"""The contract of ERNIE 4.5 VL: experts by the kind of each token, half as many frames of tokens."""

import pytest
import torch
from grids import GLM_IDS, IMAGE, VIDEO, Grids, rope, text
from releases import LATER_IMAGE, before, needs_class
from rows import check_truth

import lightkv
from lightkv.adapters.families.ernie4_5_vl import Ernie45VLAdapter
from lightkv.testing import AdapterSuite, Prompt

Ernie4_5_VLMoeConfig = needs_class("Ernie4_5_VLMoeConfig")
Ernie4_5_VLMoeForConditionalGeneration = needs_class("Ernie4_5_VLMoeForConditionalGeneration")


class Ernie(Grids):
    adapter, model = Ernie45VLAdapter, Ernie4_5_VLMoeForConditionalGeneration
    patch, stamped = (48,), False
    cannot = LATER_IMAGE | {"assistant": "transformers does not tell the kinds of drafts"}

    def config(self, **given):
        decoder = text(
            moe_intermediate_size=[32, 32],
            moe_k=2,
            moe_num_experts=4,
            moe_num_shared_experts=1,
            mlp_layer_types=["dense"] + ["sparse"] * 5,
            rope_parameters=rope(mrope_section=[3, 3, 2]),
        )
        vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2}
        vision |= {"patch_size": 4, "spatial_merge_size": 2, "temporal_merge_size": 2}
        ids = {**GLM_IDS, "video_token_id": VIDEO}
        return Ernie4_5_VLMoeConfig(text_config=decoder, vision_config=vision, **ids, **given)

    def make_inputs(self, model, prompts):
        inputs = super().make_inputs(model, prompts)
        ids = inputs["input_ids"]
        inputs["moe_mm_token_type_ids"] = ((ids == IMAGE) | (ids == VIDEO)).int()
        return inputs

    def extended(self, model, inputs, tokens):
        longer = super().extended(model, inputs, tokens)
        types = inputs["moe_mm_token_type_ids"]
        longer["moe_mm_token_type_ids"] = torch.cat([types, types.new_zeros(tokens.shape)], dim=1)
        return longer

    def later_call(self, model, whole, later):
        call = super().later_call(model, whole, later)
        if before("5.23"):
            # Earlier `generate` cuts no such types: it takes those of what the cache lacks, which are
            # of the new turn and of the last answered token.
            new = later["moe_mm_token_type_ids"].shape[1] + 1
            call["moe_mm_token_type_ids"] = call["moe_mm_token_type_ids"][:, -new:]
        return call


class TestErnie(Ernie, AdapterSuite):
    pass


def test_two_frames_of_a_clip_are_one_of_its_tokens():
    suite, generator = TestErnie(), torch.Generator().manual_seed(1)
    model = suite.make_model()
    ids = torch.tensor([[50, *[VIDEO] * (2 * 4 * 6), 51]])
    inputs = {"input_ids": ids, "mm_token_type_ids": suite.kinds_of(ids)}
    inputs["moe_mm_token_type_ids"] = (ids == VIDEO).int()
    inputs["video_grid_thw"] = torch.tensor([[4, 8, 12]])
    inputs["pixel_values_videos"] = torch.randn(4 * 96, 48, generator=generator)
    for frame, (y, x) in ((0, (1, 2)), (1, (3, 5)), (3, (2, 0))):
        painted = inputs["pixel_values_videos"].clone()
        first = frame * 96 + (y * 6 + x) * 4
        painted[first : first + 4] += 3
        changed = {**inputs, "pixel_values_videos": painted}
        views = {0: (frame // 2, (y + 0.5) / 4, (x + 0.5) / 6)}
        sample = check_truth(Ernie45VLAdapter(), model, inputs, changed, views)
    assert [view.grid for view in sample.views] == [(2, 4, 6)]


@pytest.mark.parametrize("adapter", ["generic", Ernie45VLAdapter()])
def test_survivors_go_to_the_experts_of_their_kind(adapter):
    suite, prompts, seen = TestErnie(), (Prompt(2, 1, 3, seed=1),), []
    model = suite.make_model()
    inputs = suite.make_inputs(model, prompts)
    places = suite.vision_mask(model, inputs, prompts)[0].nonzero().flatten()
    layout = lightkv.VisionLayout.from_spans([[(int(places[0]), (1, 1, len(places)))]])
    given = {"layout": layout} if adapter == "generic" else {}

    def look(module, args):
        seen.append(args[1][0].tolist())

    stages = [{"after_layer": 3, "ratio": 0.5}]
    with lightkv.compress(model, "random", schedule=stages, adapter=adapter, **given) as run:
        for layer in suite.decoder(model).layers[1:]:
            layer.mlp.register_forward_pre_hook(look)
        model(**inputs)
    kept = run.last.samples[0].vision_tokens
    assert [sum(kinds) for kinds in seen] == list(kept[1:])
    assert all(not any(kinds[-4:]) for kinds in seen)
