"""The contract of Cosmos 3 Omni, which is Qwen3-VL in a class of its own."""

from grids import INTERLEAVED, WRAPPED, Clips, Deepstack, text
from transformers import Cosmos3OmniConfig, Cosmos3OmniForConditionalGeneration

from lightkv.testing import AdapterSuite


class Cosmos3Omni(Deepstack):
    model = Cosmos3OmniForConditionalGeneration

    def config(self, **given):
        decoder = text(num_hidden_layers=self.layers, head_dim=16, rope_parameters=INTERLEAVED)
        return Cosmos3OmniConfig(text_config=decoder, vision_config=self.tower, **WRAPPED, **given)


class TestCosmos3Omni(Cosmos3Omni, AdapterSuite):
    pass


class TestClips(Clips, Cosmos3Omni):
    pass
