"""The contract of Qwen3.5-MoE: as Qwen3.5, with experts."""

import torch
from hybrids import IDS, LINEAR, TOWER, Qwen35
from transformers import Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration

from lightkv.testing import AdapterSuite

EXPERTS = {
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "num_experts": 4,
    "num_experts_per_tok": 2,
}


class TestQwen35Moe(Qwen35, AdapterSuite):
    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        text = {name: size for name, size in LINEAR.items() if name != "intermediate_size"}
        config = Qwen3_5MoeConfig(
            text_config={**text, **EXPERTS},
            vision_config=TOWER,
            attn_implementation=attn_implementation,
            **IDS,
        )
        torch.manual_seed(0)
        return Qwen3_5MoeForConditionalGeneration(config).to(dtype).eval()
