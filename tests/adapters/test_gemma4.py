"""The contract of the Gemma 4 adapter: inputs of each layer, shared entries, two widths, blocks."""

import pytest
import torch
from releases import LATER_IMAGE, before
from rows import check_truth, left_padded, row_ids
from tiny import TEXT
from transformers import Gemma4Config, Gemma4ForConditionalGeneration

import lightkv
from lightkv.adapters.families.gemma4 import Gemma4Adapter
from lightkv.core.errors import ConfigError, SessionError
from lightkv.testing import AdapterSuite, Prompt
from lightkv.testing.adapters import MIXED
from lightkv.testing.oracles import causal_mask, windowed
from lightkv.testing.truth import points

IMAGE, START, END, WINDOW, PATCH, POOL = 5, 3, 4, 24, 4, 2
GRIDS = ((8, 12), (12, 8), (8, 8))
"""Rows and columns of patches before pooling; images of a batch differ in size."""
MOST = max(h * w for h, w in GRIDS)
KINDS = ("sliding", "sliding", "full", "sliding", "sliding", "full", "sliding", "full")
WINDOWS = tuple(WINDOW if kind == "sliding" else None for kind in KINDS)
SMALL = {"num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8}
"""What small models have; large ones have images that see themselves, and some experts."""
LARGE = {"hidden_size_per_layer_input": 0, "use_bidirectional_attention": "vision"}
EXPERTS = {
    **LARGE,
    "enable_moe_block": True,
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 32,
}


def text_sizes(**changes):
    return {
        **TEXT,
        "num_hidden_layers": len(KINDS),
        "head_dim": 16,
        "global_head_dim": 32,
        "vocab_size_per_layer_input": TEXT["vocab_size"],
        "sliding_window": WINDOW,
        "layer_types": [f"{kind}_attention" for kind in KINDS],
        **changes,
    }


IDS = {
    "image_token_id": IMAGE,
    "video_token_id": 6,
    "boi_token_id": START,
    "eoi_token_id": END,
    "audio_token_id": 13,
    "boa_token_id": 14,
    "eoa_token_index": 15,
    "audio_config": None,
}


def tiny_gemma4(attn_implementation="sdpa", dtype=torch.float32, **changes):
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "patch_size": PATCH,
        "pooling_kernel_size": POOL,
        "position_embedding_size": 64,
    }
    text = text_sizes(**(changes or SMALL))
    config = Gemma4Config(
        text_config=text, vision_config=vision, attn_implementation=attn_implementation, **IDS
    )
    torch.manual_seed(0)
    return Gemma4ForConditionalGeneration(config).to(dtype).eval()


def patches(grid, generator, most=MOST, side=PATCH):
    """Pixels and places (column, row) of an image, padded to `most` patches."""
    h, w = grid
    pixels, places = torch.zeros(most, 3 * side**2), torch.full((most, 2), -1)
    pixels[: h * w] = torch.rand(h * w, 3 * side**2, generator=generator)
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    places[: h * w] = torch.stack([columns, rows], dim=-1).reshape(-1, 2)
    return pixels, places


class TestGemma4(AdapterSuite):
    """A small one: layers have inputs of their own, and the last two read the entries of others."""

    windows = WINDOWS
    sharing = (6, 7)
    pool, everywhere = POOL, False
    # Cached and uncached passes of the plain model differ by 5e-6.
    exact = 2e-5
    cannot = LATER_IMAGE

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        return tiny_gemma4(attn_implementation, dtype)

    def patches(self, grid, generator):
        return patches(grid, generator)

    def make_inputs(self, model, prompts):
        rows, pictures = [], []
        for prompt in prompts:
            grids = [GRIDS[(prompt.seed + n) % len(GRIDS)] for n in range(prompt.images)]
            tokens = [h * w // self.pool**2 for h, w in grids]
            ids, generator = row_ids(prompt, [[START, *[IMAGE] * n, END] for n in tokens])
            rows.append(ids)
            pictures += [self.patches(grid, generator) for grid in grids]
        inputs = left_padded(rows)
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).long()
        if pictures:
            pixels, places = map(torch.stack, zip(*pictures, strict=True))
            inputs |= {"pixel_values": pixels.to(model.dtype), "image_position_ids": places}
        return inputs

    def extended(self, model, inputs, tokens):
        whole = super().extended(model, inputs, tokens)
        return {**whole, "mm_token_type_ids": (whole["input_ids"] == IMAGE).long()}

    def own_masks(self, model, inputs):
        ids = inputs["input_ids"]
        return own_masks(ids, model.config.get_text_config(), everywhere=self.everywhere)

    def record(self, model, layer):
        # In prefills the last ones are called on the last position only.
        return super().record(model, 5 if layer == -1 else layer)

    def options(self, model, prompts):
        return {"adapter": Gemma4Adapter()}


def own_masks(ids, config, *, everywhere):
    """Per layer `[B, N, N]`: the tokens of an image see one another in sliding layers, or everywhere."""
    image = ids == IMAGE
    number = torch.where(image, (ids == START).cumsum(1), -1)
    same = (number[:, :, None] == number[:, None]) & image[:, :, None]
    if config.use_bidirectional_attention != "vision":
        same = torch.zeros_like(same)
    causal = causal_mask(ids.shape[1])[None].expand(len(ids), -1, -1)
    full = causal | same if everywhere else causal
    return [full if w is None else windowed(causal | same, w) for w in WINDOWS]


class Large(TestGemma4):
    """Images see themselves in sliding layers."""

    sharing = ()

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        return tiny_gemma4(attn_implementation, dtype, **LARGE)


class Experts(Large):
    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        return tiny_gemma4(attn_implementation, dtype, **EXPERTS)


@pytest.mark.parametrize("suite", [Large, Experts])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_dropping_equals_masking_in_large_models(suite, attention):
    suite = suite()
    model = suite.make_model(attention)
    found, wanted = suite.drop_and_mask(model, MIXED, "random", eager=attention == "eager")
    torch.testing.assert_close(found, wanted, atol=suite.exact, rtol=0)


@pytest.mark.parametrize("later", [Prompt(3, 1, 4, seed=7), Prompt(3, 0, 4, seed=7)])
def test_later_turns_of_large_models(later):
    suite, first = Large(), (Prompt(2, 1, 3, seed=1),)
    if later.images:
        suite.need("later image")
    found, wanted, _ = suite.converse(suite.make_model(), first, later, "random", eager=False)
    torch.testing.assert_close(found, wanted, atol=suite.exact, rtol=0)


def test_layout_truth():
    model, generator = tiny_gemma4(), torch.Generator().manual_seed(1)
    (first, second), size = GRIDS[:2], POOL
    tokens = [h * w // POOL**2 for h, w in (first, second)]
    ids = [50, START, *[IMAGE] * tokens[0], END, START, *[IMAGE] * tokens[1], END, 51]
    pixels, places = map(
        torch.stack, zip(*(patches(grid, generator) for grid in (first, second)), strict=True)
    )
    inputs = {"input_ids": torch.tensor([ids]), "pixel_values": pixels}
    inputs |= {"image_position_ids": places}
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).long()
    for view, (h, w) in enumerate((first, second)):
        for y, x in points(h // POOL, w // POOL):
            painted = pixels.clone()
            here = places[view] // size == torch.tensor([int(x * w // size), int(y * h // size)])
            painted[view][here.all(dim=1)] += 3.0
            changed = {**inputs, "pixel_values": painted}
            sample = check_truth(Gemma4Adapter(), model, inputs, changed, {view: (0, y, x)})
    assert [view.grid for view in sample.views] == [(1, 4, 6), (1, 6, 4)]


def test_no_stage_stands_behind_a_layer_that_others_read():
    model = tiny_gemma4()
    places = Gemma4Adapter().places(model)
    assert (places.last, Gemma4Adapter().sources(model)) == (4, {6: 4, 7: 5})
    schedule = [{"after_layer": 5, "ratio": 0.5}]
    run = lightkv.compress(model, "random", schedule=schedule, adapter=Gemma4Adapter())
    with pytest.raises(ConfigError, match=r"of layer 4 .*\(6\).*nearest is 4"):
        run.__enter__()


def test_layers_that_share_cache_nothing():
    suite = TestGemma4()
    model, prompts = suite.make_model(), MIXED[:1]
    with suite.session(model, prompts) as run:
        suite.generate(model, suite.make_inputs(model, prompts), max_new_tokens=1)
    assert run.last.cache_bytes[6:] == (0, 0)
    assert all(run.last.cache_bytes[:6])


def test_logits_of_several_positions():
    """Layers that share are called on these only; more than stand behind the images are refused."""
    suite = TestGemma4()
    model, prompts = suite.make_model(), (Prompt(2, 1, 3, seed=1), Prompt(5, 1, 3, seed=2))
    inputs = suite.make_inputs(model, prompts)
    with suite.session(model, prompts, "lightkv"), torch.no_grad():
        whole = model(**inputs).logits
        for count in (1, 3):
            some = model(**inputs, logits_to_keep=count).logits
            torch.testing.assert_close(some, whole[:, -count:], atol=suite.exact, rtol=0)
        if not before("5.24"):  # earlier all layers are called on all positions
            with pytest.raises(SessionError, match="only 4 stand behind"):
                model(**inputs, logits_to_keep=9)
