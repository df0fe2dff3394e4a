"""The contract of Qwen3-VL with experts."""

from grids import INTERLEAVED, WRAPPED, Clips, Deepstack, experts
from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

from lightkv.testing import AdapterSuite


class Qwen3VLMoe(Deepstack):
    model = Qwen3VLMoeForConditionalGeneration

    def config(self, **given):
        decoder = experts(num_hidden_layers=self.layers, head_dim=16, rope_parameters=INTERLEAVED)
        return Qwen3VLMoeConfig(text_config=decoder, vision_config=self.tower, **WRAPPED, **given)


class TestQwen3VLMoe(Qwen3VLMoe, AdapterSuite):
    pass


class TestClips(Clips, Qwen3VLMoe):
    pass
