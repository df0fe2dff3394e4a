"""What the contracts of decoders with recurrent layers share, and a tiny one of them."""

import torch
from releases import LATER_IMAGE, RECURRENT_BEAMS
from rows import IMAGE, grid_rows, grids_later, one_run, token_kinds
from tiny import GRID_TOWER, TEXT
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

from lightkv.adapters.families.qwen_vl import QwenVLAdapter
from lightkv.testing.adapters import MIXED, PAIR, AdapterBench
from lightkv.testing.oracles import reads_next_layer

LINEAR = {
    **TEXT,
    "num_hidden_layers": 6,
    "layer_types": ["linear_attention", "full_attention"] * 3,
    "head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "initializer_range": 0.04,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e4,
        "partial_rotary_factor": 0.5,
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
    },
}
"""Sizes of a Qwen3.5 decoder. Every second layer is full attention, so that stages stand close."""
TOWER = {**GRID_TOWER, "num_position_embeddings": 64}
IDS = {
    "image_token_id": 5,
    "video_token_id": 6,
    "vision_start_token_id": 7,
    "vision_end_token_id": 8,
}

FADES = "padding behind tokens that a recurrent layer has seen makes its state fade (transformers)"
NO_CROP = "transformers cannot take tokens out of a recurrent state"


class Hybrid(AdapterBench):
    """Layers 0, 2 and 4 of six are recurrent."""

    law = "shorter"
    recurrent = (0, 2, 4)
    beam_prompts = PAIR
    cannot = {
        **LATER_IMAGE,
        "unequal turns": FADES,
        "cropping": NO_CROP,
        "assisted": NO_CROP,
        "quantised cache": "transformers quantises caches of full attention layers only",
    }

    def schedule_of(self, pipeline):
        """A stage that reads the layer behind it stands before one that has attention."""
        if not reads_next_layer(pipeline):
            return super().schedule_of(pipeline)
        return [{**stage, "after_layer": stage["after_layer"] + 1} for stage in self.schedule]


def tiny_qwen3_5(attn_implementation="sdpa", dtype=torch.float32, **changes):
    config = Qwen3_5Config(
        text_config={**LINEAR, **changes},
        vision_config=TOWER,
        attn_implementation=attn_implementation,
        **IDS,
    )
    torch.manual_seed(0)
    return Qwen3_5ForConditionalGeneration(config).to(dtype).eval()


class Qwen35(Hybrid):
    """A Qwen3.5 with pictures of three sizes in turn."""

    grids, token = [(1, 8, 12), (1, 12, 8), (1, 8, 16)], IMAGE
    cannot = {**Hybrid.cannot, **RECURRENT_BEAMS}
    block = staticmethod(one_run)

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        return tiny_qwen3_5(attn_implementation, dtype)

    def options(self, model, prompts):
        return {"adapter": QwenVLAdapter()}

    def make_inputs(self, model, prompts):
        return grid_rows(prompts, self.grids, self.token, model.dtype, self.block)

    def vision_mask(self, model, inputs, prompts):
        return inputs["input_ids"] == self.token

    def extended(self, model, inputs, tokens):
        longer = super().extended(model, inputs, tokens)
        return {**longer, "mm_token_type_ids": token_kinds(longer["input_ids"])}

    def later_call(self, model, whole, later):
        return grids_later(model, whole, later)


def check_laws(suite):
    """The law of a suite, and batch ≡ single, for prompts that hold something else than its images."""
    model = suite.make_model()
    found, wanted = suite.drop_and_mask(model, MIXED, "random", eager=False)
    suite.check_close(found, wanted)
    suite.batch_and_alone(model, "lightkv")
