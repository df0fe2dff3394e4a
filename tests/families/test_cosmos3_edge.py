"""The contract of Cosmos 3 Edge: multimodal positions, a tower as in SigLIP 2."""

from grids import INTERLEAVED, NO_LATER_IMAGE, WRAPPED, Clips, Grids, siglip, text
from transformers import Cosmos3EdgeConfig, Cosmos3EdgeForConditionalGeneration

from lightkv.adapters.families.qwen_vl import QwenVLAdapter
from lightkv.testing import AdapterSuite


class Cosmos3Edge(Grids):
    adapter, model = QwenVLAdapter, Cosmos3EdgeForConditionalGeneration
    patch, cannot = (48,), NO_LATER_IMAGE

    def config(self, **given):
        return Cosmos3EdgeConfig(
            text_config=text(head_dim=16, rope_parameters=INTERLEAVED),
            vision_config=siglip(num_patches=64, spatial_merge_size=2),
            projector_hidden_size=48,
            **WRAPPED,
            **given,
        )


class TestCosmos3Edge(Cosmos3Edge, AdapterSuite):
    pass


class TestClips(Clips, Cosmos3Edge):
    pass
