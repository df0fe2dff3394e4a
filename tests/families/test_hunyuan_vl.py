"""The contract of HunYuan-VL: tokens without pixels around pictures and rows, four rotary axes."""

from grids import IMAGE, NO_LATER_IMAGE, Grids, rope, siglip, text
from transformers import HunYuanVLConfig, HunYuanVLForConditionalGeneration

from lightkv.adapters.families.hunyuan_vl import HunYuanVLAdapter
from lightkv.testing import AdapterSuite, Prompt


class TestHunYuanVL(Grids, AdapterSuite):
    adapter, model = HunYuanVLAdapter, HunYuanVLForConditionalGeneration
    raster, patch = True, (48,)
    # transformers numbers the pictures of all rows together, so those of a second row have other
    # positions than alone.
    batch = (Prompt(5, 2, 6, seed=2), Prompt(4, 0, 2, seed=3))
    pair = beam_prompts = (Prompt(2, 1, 3, seed=1), Prompt(5, 0, 6, seed=2))
    cannot = NO_LATER_IMAGE | {
        "unequal turns": "transformers numbers the pictures of all rows together",
        "next layer": "it norms queries and keys behind their rotation",
    }

    def config(self, **given):
        sizes = {"max_image_size": 64, "min_image_size": 16, "img_max_token_num": 64}
        eyes = siglip(spatial_merge_size=2, out_hidden_size=64, text_hidden_size=64, **sizes)
        return HunYuanVLConfig(
            text_config=text(head_dim=16, rope_parameters=rope(mrope_section=[2, 2, 2, 2])),
            vision_config=eyes,
            image_token_id=IMAGE,
            **given,
        )

    def frame(self, rows, columns):
        """A token at the end of each row, and one before and behind the picture."""
        return [7, *[IMAGE] * (rows * (columns + 1) + 2), 8]
