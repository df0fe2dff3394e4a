"""The contract of large Gemma 4 models, of those with experts, and of the unified one."""

import pytest
import torch
from releases import needs_class
from rows import check_truth
from test_gemma4 import GRIDS, IDS, IMAGE, LARGE, PATCH, POOL, patches, text_sizes
from test_gemma4 import Experts as ExpertsSuite
from test_gemma4 import Large as LargeSuite

from lightkv.adapters.families.gemma4 import Gemma4Adapter
from lightkv.testing.truth import points

Gemma4UnifiedConfig = needs_class("Gemma4UnifiedConfig")
Gemma4UnifiedForConditionalGeneration = needs_class("Gemma4UnifiedForConditionalGeneration")

TOKENS = tuple((rows // POOL, columns // POOL) for rows, columns in GRIDS)
SIDE = PATCH * POOL


class TestLarge(LargeSuite):
    pass


class TestExperts(ExpertsSuite):
    pass


def tiny_unified(attn_implementation="sdpa", dtype=torch.float32):
    vision = {
        "patch_size": PATCH,
        "pooling_kernel_size": POOL,
        "mm_embed_dim": 32,
        "mm_posemb_size": 64,
        "output_proj_dims": 32,
    }
    config = Gemma4UnifiedConfig(
        text_config=text_sizes(use_bidirectional_attention="vision"),
        vision_config=vision,
        attn_implementation=attn_implementation,
        **IDS,
    )
    torch.manual_seed(0)
    return Gemma4UnifiedForConditionalGeneration(config).to(dtype).eval()


class TestUnified(LargeSuite):
    """No tower: a patch is as large as a token. Images see themselves in all layers."""

    # Cached and uncached passes of the plain model differ by 1.3e-5.
    exact, everywhere = 5e-5, True

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        return tiny_unified(attn_implementation, dtype)

    def patches(self, grid, generator):
        rows, columns = grid
        return patches((rows // POOL, columns // POOL), generator, most=24, side=SIDE)


def test_layout_truth_of_the_unified_model():
    suite, generator = TestUnified(), torch.Generator().manual_seed(1)
    model, (rows, columns) = suite.make_model(), TOKENS[0]
    ids = torch.tensor([[50, *[IMAGE] * (rows * columns), 51]])
    pixels, places = suite.patches(GRIDS[0], generator)
    inputs = {"input_ids": ids, "mm_token_type_ids": (ids == IMAGE).long()}
    inputs |= {"pixel_values": pixels[None], "image_position_ids": places[None]}
    for y, x in points(rows, columns):
        painted = pixels[None].clone()
        painted[0, int(y * rows) * columns + int(x * columns)] += 3.0
        changed = {**inputs, "pixel_values": painted}
        sample = check_truth(Gemma4Adapter(), model, inputs, changed, {0: (0, y, x)})
    assert [view.grid for view in sample.views] == [(1, rows, columns)]


@pytest.mark.parametrize("large", [True, False])
def test_images_see_themselves_where_the_config_says_so(large):
    suite = LargeSuite() if large else TestLarge()
    model = suite.make_model()
    if not large:
        model.model.language_model.config.use_bidirectional_attention = None
    found = Gemma4Adapter().blocked(model)
    assert found == (frozenset({0, 1, 3, 4, 6}) if large else frozenset())
    assert LARGE["use_bidirectional_attention"] == "vision"
