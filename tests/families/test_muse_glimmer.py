"""The contract of Muse Glimmer: layers of full attention have no rotary positions."""

import pytest
from grids import IDS, Clips, Grids, rope, siglip, text
from releases import PLAIN_BEAMS, needs_class

from lightkv.adapters.families.muse import MuseAdapter
from lightkv.core.errors import ModelError
from lightkv.testing import AdapterSuite

MuseGlimmerConfig = needs_class("MuseGlimmerConfig")
MuseGlimmerForConditionalGeneration = needs_class("MuseGlimmerForConditionalGeneration")

WINDOWS = (24, 24, None, 24, 24, None)
PARTS = {
    "text_config": {
        "head_dim": 16,
        "sliding_window": 24,
        "layer_types": [f"{'sliding' if w else 'full'}_attention" for w in WINDOWS],
        "layer_rope_theta": [1e4 if w else 0 for w in WINDOWS],
        "rope_parameters": rope(),
    },
    "vision_config": {
        "pos_emb_height": 8,
        "pos_emb_width": 8,
        "patch_temporal": 2,
        "merge_size": 2,
    },
}


class MuseGlimmer(Grids):
    adapter, model = MuseAdapter, MuseGlimmerForConditionalGeneration
    raster, typed, windows = True, False, WINDOWS
    cannot = PLAIN_BEAMS | {"next layer": "it norms queries and keys together"}

    def config(self, **given):
        return MuseGlimmerConfig(
            text_config=text(**PARTS["text_config"]),
            vision_config=siglip(**PARTS["vision_config"]),
            out_hidden_size=128,
            projector_hidden_size=48,
            **IDS,
            **given,
        )

    def record(self, model, layer):
        return super().record(model, 4 if layer == -1 else layer)  # the last one has no tables


class TestMuseGlimmer(MuseGlimmer, AdapterSuite):
    pass


class TestClips(Clips, MuseGlimmer):
    pass


def test_the_attention_of_the_next_layer_is_refused():
    suite = TestMuseGlimmer()
    with pytest.raises(ModelError, match="next_last_row"):
        suite.session(suite.make_model(), (), "pyramiddrop").__enter__()
