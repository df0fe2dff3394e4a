"""The contract of LFM3-VL: short convolutions, sliding windows and full attention in one decoder."""

from grids import WRAPPED, Clips, Grids, siglip, text
from hybrids import FADES, Hybrid
from releases import needs_class

from lightkv.adapters.families.qwen_vl import QwenVLAdapter
from lightkv.testing import AdapterSuite

Config = needs_class("Lfm3VlConfig")
Model = needs_class("Lfm3VlForConditionalGeneration")


class Lfm3VL(Hybrid, Grids):
    adapter, model, typed = QwenVLAdapter, Model, False
    windows = (None, 24, None, None, None, 24)
    cannot = {"unequal turns": FADES, "next layer": "its norms have other names"}

    def config(self, **given):
        kinds = ["conv", "sliding_attention", "conv", "full_attention", "conv", "sliding_attention"]
        sizes = {"layer_types": kinds, "head_dim": 16}
        tower = siglip(num_key_value_heads=2, spatial_merge_size=2, temporal_patch_size=2)
        return Config(
            text_config=text(**sizes, conv_L_cache=3, sliding_window=24, initializer_range=0.04),
            vision_config=tower,
            projector_hidden_size=48,
            **WRAPPED,
            **given,
        )

    def part(self, layer, name):
        return getattr(layer, {"mlp": "feed_forward"}.get(name, name))


class TestLfm3VL(Lfm3VL, AdapterSuite):
    pass


class TestClips(Clips, Lfm3VL):
    pass
