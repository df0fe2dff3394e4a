"""The contract of HyperCLOVA X Vision: the tower of Qwen2.5-VL, a decoder with plain positions."""

from grids import IDS, Clips, Grids, text, tower
from transformers import HyperCLOVAXVisionV2Config, HyperCLOVAXVisionV2ForConditionalGeneration

from lightkv.adapters.families.exaone4_5 import Exaone45Adapter
from lightkv.testing import AdapterSuite


class HyperClovaX(Grids):
    adapter, model = Exaone45Adapter, HyperCLOVAXVisionV2ForConditionalGeneration
    typed = stamped = False
    first_layer = 1
    cannot = {"unequal turns": "its decoder counts padding between turns as positions"}

    def config(self, **given):
        eyes = tower(window_size=16, fullatt_block_indexes=[1])
        return HyperCLOVAXVisionV2Config(
            text_config={"model_type": "hyperclovax", **text()},
            vision_config={"model_type": "qwen2_5_vl_vision", **eyes},
            **IDS,
            **given,
        )


class TestHyperClovaX(HyperClovaX, AdapterSuite):
    pass


class TestClips(Clips, HyperClovaX):
    pass
