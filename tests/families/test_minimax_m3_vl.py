"""The contract of MiniMax M3 VL where all layers attend to everything; sparse ones are refused."""

import pytest
import torch
from grids import IMAGE, VIDEO, Clips, Grids, siglip, text
from releases import before
from transformers import MiniMaxM3SparseForConditionalGeneration, MiniMaxM3VLConfig

import lightkv
from lightkv.adapters.families.qwen_vl import QwenVLAdapter
from lightkv.core.errors import ModelError
from lightkv.testing import AdapterSuite, Prompt
from lightkv.testing.adapters import MIXED, PAIR

ALONE = before("5.23")
TOGETHER = "before 5.23 all pictures of a call see one another in the plain tower (checked below)"

SIZES = {
    "head_dim": 16,
    "rotary_dim": 8,
    "num_experts_per_tok": 2,
    "num_local_experts": 4,
    "dense_intermediate_size": 48,
    "shared_intermediate_size": 32,
    "index_n_heads": 2,
    "index_head_dim": 16,
}


class MiniMaxM3(Grids):
    adapter, model = QwenVLAdapter, MiniMaxM3SparseForConditionalGeneration
    typed = stamped = False
    kinds = None
    cannot = dict.fromkeys(("later image", "unequal turns"), TOGETHER) if ALONE else {}
    batch = (Prompt(2, 1, 3, seed=1), MIXED[2]) if ALONE else MIXED
    pair = (Prompt(2, 1, 3, seed=1), Prompt(5, 0, 6, seed=2)) if ALONE else PAIR

    def config(self, **given):
        return MiniMaxM3VLConfig(
            text_config=text(**SIZES, layer_types=self.kinds),
            vision_config=siglip(image_size=64, spatial_merge_size=2, temporal_patch_size=2),
            image_token_index=IMAGE,
            video_token_index=VIDEO,
            projector_hidden_size=48,
            **given,
        )


class TestMiniMaxM3(MiniMaxM3, AdapterSuite):
    pass


class TestClips(Clips, MiniMaxM3):
    pass


def test_a_picture_is_the_same_beside_others_in_the_plain_model():
    suite = MiniMaxM3()
    model = suite.make_model()
    with torch.no_grad():
        batch, alone = (model(**suite.make_inputs(model, rows)) for rows in (MIXED, MIXED[:1]))
    gap = (batch.logits[0, -1] - alone.logits[0, -1]).abs().max()
    assert (gap > 100 * suite.exact) == ALONE


def test_sparse_layers_are_refused_by_name():
    suite = MiniMaxM3()
    suite.kinds = ["full_attention"] * 2 + ["minimax_m3_sparse"] * 4
    model = suite.make_model()
    with (
        pytest.raises(ModelError, match="minimax_m3_sparse") as error,
        lightkv.compress(model, "fastv"),
    ):
        pass
    assert error.value.field == "model.config.layer_types"
