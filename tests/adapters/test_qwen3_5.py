"""The contract of Qwen3.5: a decoder of linear and full attention, under the law of the shorter sequence."""

import torch
from hybrids import Hybrid, tiny_qwen3_5
from rows import grid_rows, grids_later, token_kinds

from lightkv.adapters.families.qwen_vl import QwenVLAdapter
from lightkv.testing import AdapterSuite

GRIDS = [(1, 8, 12), (1, 12, 8), (1, 8, 16)]


class TestQwen35(Hybrid, AdapterSuite):
    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        return tiny_qwen3_5(attn_implementation, dtype)

    def options(self, model, prompts):
        return {"adapter": QwenVLAdapter()}

    def make_inputs(self, model, prompts):
        return grid_rows(prompts, GRIDS, dtype=model.dtype)

    def extended(self, model, inputs, tokens):
        longer = super().extended(model, inputs, tokens)
        return {**longer, "mm_token_type_ids": token_kinds(longer["input_ids"])}

    def later_call(self, model, whole, later):
        return grids_later(model, whole, later)
