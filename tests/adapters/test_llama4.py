"""The contract of the Llama 4 adapter: tiles, chunked attention, layers without positions."""

import pytest
import torch
from releases import before
from rows import check_truth, left_padded, row_ids
from tiny import TEXT
from transformers import Llama4Config, Llama4ForConditionalGeneration

from lightkv.adapters.families.llama4 import Llama4Adapter
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.core.errors import LayoutError
from lightkv.testing import AdapterSuite, Prompt
from lightkv.testing.adapters import MIXED
from lightkv.testing.oracles import causal_mask
from lightkv.testing.truth import points

IMAGE, START, END, COLUMN, ROW, WHOLE = 5, 3, 4, 6, 7, 8
TILE, SIDE, CHUNK = 24, 3, 16
CHUNKS = (CHUNK, CHUNK, None, CHUNK, CHUNK, None)


def tiny_llama4(attn_implementation="sdpa", dtype=torch.float32, **changes):
    text = {
        **TEXT,
        "intermediate_size_mlp": 96,
        "head_dim": 16,
        "num_local_experts": 2,
        "attention_chunk_size": CHUNK,
        "no_rope_layers": [int(chunk is not None) for chunk in CHUNKS],
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        **changes,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": TILE,
        "patch_size": 4,
        "pixel_shuffle_ratio": 0.5,
        "projector_input_dim": 64,
        "projector_output_dim": 64,
        "vision_output_dim": 64,
    }
    config = Llama4Config(
        text_config=text,
        vision_config=vision,
        image_token_index=IMAGE,
        boi_token_index=START,
        eoi_token_index=END,
        attn_implementation=attn_implementation,
    )
    torch.manual_seed(0)
    model = Llama4ForConditionalGeneration(config).eval()
    model.language_model.register_forward_hook(with_image_outputs)
    # Not by `to`: the tower has complex tables, of which it would leave the real part.
    return model._apply(lambda t: t.to(dtype) if t.is_floating_point() else t)


def with_image_outputs(module, args, output):
    """In 5.24 the model asks its text model for outputs of an encoder: without lightkv it fails, too."""
    if not hasattr(output, "image_outputs"):
        output.image_outputs = None
    return output


def block(rows=0, columns=0):
    """Ids of a picture cut into rows × columns tiles; (0, 0) is one that is not cut."""
    tile, ids = [IMAGE] * SIDE * SIDE, [START]
    for _ in range(rows):
        for column in range(columns):
            ids += [*tile, COLUMN if column < columns - 1 else ROW]
    return [*ids, WHOLE, *tile, END]


def same_chunk(ids, window):
    """`[B, N, N]`: causal, and inside a chunk that is counted from the row's first token."""
    allowed = causal_mask(ids.shape[1])[None].expand(len(ids), -1, -1)
    if window is None:
        return allowed
    pads = (ids != 0).int().argmax(dim=1)
    chunk = (torch.arange(ids.shape[1])[None] - pads[:, None]).div(window, rounding_mode="floor")
    return allowed & (chunk[:, :, None] == chunk[:, None])


class TestLlama4(AdapterSuite):
    """The first image of a prompt is cut into 1 × 2 tiles, others are not cut."""

    windows = CHUNKS
    cannot = {
        **dict.fromkeys(
            ("beams", "sampling"),
            "transformers repeats the rows of Llama 4, but not its features",
        ),
        "next layer": "its rotary function is one of complex tables",
    }

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        return tiny_llama4(attn_implementation, dtype)

    def make_inputs(self, model, prompts):
        rows, pixels = [], []
        for prompt in prompts:
            blocks = [block(1, 2) if image == 0 else block() for image in range(prompt.images)]
            ids, generator = row_ids(prompt, blocks)
            rows.append(ids)
            tiles = prompt.images + 2 if prompt.images else 0
            pixels.append(torch.randn(tiles, 3, TILE, TILE, generator=generator))
        inputs = left_padded(rows)
        if sum(prompt.images for prompt in prompts):
            inputs["pixel_values"] = torch.cat(pixels).to(model.dtype)
        return inputs

    def part(self, layer, name):
        return super().part(layer, "feed_forward" if name == "mlp" else name)

    def decoder(self, model):
        return Llama4Adapter().decoder(model)

    def test_a_static_cache_is_refused(self):
        if before("5.24"):
            pytest.skip("cannot: transformers makes no chunked masks for static caches")
        super().test_a_static_cache_is_refused()

    def own_masks(self, model, inputs):
        return [same_chunk(inputs["input_ids"], window) for window in CHUNKS]

    def options(self, model, prompts):
        return {"adapter": Llama4Adapter()}


@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (3, 1), (1, 2)])
def test_layout_truth(rows, columns):
    model, generator = tiny_llama4(), torch.Generator().manual_seed(1)
    ids = torch.tensor([[50, *block(rows, columns), 52, *block(), 51]])
    tiles = torch.randn(rows * columns + 2, 3, TILE, TILE, generator=generator)
    inputs, size = {"input_ids": ids, "pixel_values": tiles}, TILE // SIDE
    for y, x in points(rows * SIDE, columns * SIDE):
        row, column = int(y * rows * SIDE), int(x * columns * SIDE)
        painted = tiles.clone()
        tile = painted[row // SIDE * columns + column // SIDE]
        top, left = row % SIDE * size, column % SIDE * size
        tile[:, top : top + size, left : left + size] += 3.0
        changed = {**inputs, "pixel_values": painted}
        sample = check_truth(Llama4Adapter(), model, inputs, changed, {0: (0, y, x)})
    grids = [view.grid for view in sample.views]
    assert grids == [(1, rows * SIDE, columns * SIDE), (1, SIDE, SIDE), (1, SIDE, SIDE)]
    assert [view.image for view in sample.views] == [0, 0, 1]


def test_a_run_of_a_wrong_length_is_refused():
    model = tiny_llama4()
    ids = torch.tensor([[START, WHOLE, *[IMAGE] * 8, END]])
    inputs = {"input_ids": ids, "pixel_values": torch.ones(1, 3, TILE, TILE)}
    with pytest.raises(LayoutError, match="run of 8 image placeholders, but each tile takes 9"):
        Llama4Adapter().layout(model, read_inputs(model, (), inputs))


class Warm(TestLlama4):
    """Layers without positions grow warmer after every ten tokens."""

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        return tiny_llama4(attn_implementation, dtype, floor_scale=10, attn_scale=4.0)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_layers_that_count_tokens_count_those_that_were_fed(attention):
    suite = Warm()
    model = suite.make_model(attention)
    # Padding counts in the plain model, and stays where it is.
    found, wanted = suite.drop_and_mask(model, MIXED, "random", eager=attention == "eager")
    torch.testing.assert_close(found, wanted, atol=suite.exact, rtol=0)
    handle, cold = model.language_model.model.layers[2].self_attn, suite.make_inputs(model, MIXED)
    with suite.session(model, MIXED, "random"), torch.no_grad():
        warm = model(**cold).logits
        handle.floor_scale = 10**6
        assert (model(**cold).logits - warm).abs().max() > suite.least_effect


def test_they_do_so_in_later_turns_and_without_a_cache():
    suite, first = Warm(), (Prompt(2, 1, 3, seed=1),)
    later = Prompt(3, 1, 4, seed=7)
    found, wanted, _ = suite.converse(suite.make_model(), first, later, "random", eager=False)
    torch.testing.assert_close(found, wanted, atol=suite.exact, rtol=0)
    model, inputs = suite.model_and_inputs(first)
    with suite.session(model, first, "lightkv"), torch.no_grad():
        stored, alone = (model(**inputs, use_cache=use).logits for use in (True, False))
    torch.testing.assert_close(stored, alone, atol=suite.exact, rtol=0)
