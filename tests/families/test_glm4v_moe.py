"""The contract of GLM-4.5V: as GLM-4.1V, with experts."""

from grids import GLM_IDS, Clips, GlmGrids, rope, text, tower
from transformers import Glm4vMoeConfig, Glm4vMoeForConditionalGeneration

from lightkv.testing import AdapterSuite

EXPERTS = {
    "moe_intermediate_size": 32,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_routed_experts": 4,
    "first_k_dense_replace": 1,
}


class Glm4vMoe(GlmGrids):
    model = Glm4vMoeForConditionalGeneration

    def config(self, **given):
        rotary = rope(partial_rotary_factor=0.5, mrope_section=[1, 1, 2])
        return Glm4vMoeConfig(
            text_config=text(rope_parameters=rotary, **EXPERTS),
            vision_config=tower(image_size=32),
            **GLM_IDS,
            **given,
        )


class TestGlm4vMoe(Glm4vMoe, AdapterSuite):
    pass


class TestClips(Clips, Glm4vMoe):
    pass
