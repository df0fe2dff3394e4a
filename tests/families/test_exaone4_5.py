"""The contract of EXAONE 4.5: sliding layers, and full layers that rotate nothing."""

from grids import IDS, Clips, Grids, text, tower
from releases import PLAIN_BEAMS
from transformers import Exaone4_5_Config, Exaone4_5_ForConditionalGeneration, Exaone4Config

from lightkv.adapters.families.exaone4_5 import Exaone45Adapter
from lightkv.testing import AdapterSuite

WINDOW, TYPES = 24, ["sliding_attention", "sliding_attention", "full_attention"] * 2


class Exaone45(Grids):
    adapter, model = Exaone45Adapter, Exaone4_5_ForConditionalGeneration
    typed = stamped = False
    first_layer = 1
    cannot = PLAIN_BEAMS | {"next layer": "its layers norm what attention gives, not what it gets"}
    windows = tuple(WINDOW if kind.startswith("sliding") else None for kind in TYPES)

    def config(self, **given):
        return Exaone4_5_Config(
            text_config=Exaone4Config(**text(sliding_window=WINDOW, layer_types=TYPES)),
            vision_config=tower(num_key_value_heads=1, window_size=16, fullatt_block_indexes=[1]),
            **IDS,
            **given,
        )


class TestExaone45(Exaone45, AdapterSuite):
    pass


class TestClips(Clips, Exaone45):
    pass
