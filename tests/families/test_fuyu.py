"""The contract of the Fuyu adapter: no vision encoder, one run of placeholders for each row."""

import torch
from releases import pixels_of
from rows import check_truth, left_padded, row_ids
from tiny import TEXT
from transformers import FuyuConfig, FuyuForCausalLM, PersimmonConfig

from lightkv.adapters.families.fuyu import FuyuAdapter
from lightkv.testing import AdapterSuite
from lightkv.testing.truth import points

IMAGE, BREAK, START, PATCH = 5, 6, 1, 6
WIDTH = 3 * PATCH * PATCH
PIXELS = pixels_of("image_patches")


def block(rows, columns):
    """What the processor writes: a line break after each row, a start token after the image."""
    return [*[IMAGE] * columns, BREAK] * rows + [START]


class TestFuyu(AdapterSuite):
    """Images of 3 × 5 and 4 × 4 patches."""

    cannot = dict.fromkeys(
        ("beams", "sampling"), "generate repeats the ids of a Fuyu prompt, but not its patches"
    ) | {"next layer": "query, key and value are one packed projection"}

    def make_model(self, attn_implementation="sdpa", dtype=torch.float32):
        text = {key: value for key, value in TEXT.items() if key != "num_key_value_heads"}
        config = FuyuConfig(
            text_config=PersimmonConfig(**text, qk_layernorm=True, partial_rotary_factor=0.5),
            image_token_id=IMAGE,
            patch_size=PATCH,
            image_size=48,
            vocab_size=200,
            hidden_size=TEXT["hidden_size"],  # read here before 5.21
            attn_implementation=attn_implementation,
        )
        torch.manual_seed(0)
        return FuyuForCausalLM(config).to(dtype).eval()

    def make_inputs(self, model, prompts):
        rows, patches = [], []
        for prompt in prompts:
            grids = [(3, 5), (4, 4)][: prompt.images]
            ids, generator = row_ids(prompt, [block(*grid) for grid in grids])
            rows.append(ids)
            patches += [torch.randn(1, h * w, WIDTH, generator=generator) for h, w in grids]
        inputs = left_padded(rows)
        if patches:
            inputs[PIXELS] = torch.cat(patches, dim=1).to(model.dtype)
        return inputs

    def options(self, model, prompts):
        return {"adapter": FuyuAdapter()}


def test_layout_truth_of_two_images():
    suite, grids = TestFuyu(), [(4, 7), (5, 2)]
    model, generator = suite.make_model(), torch.Generator().manual_seed(1)
    ids = torch.tensor([[50, *block(*grids[0]), *block(*grids[1]), 52]])
    inputs = {"input_ids": ids, PIXELS: torch.randn(1, 38, WIDTH, generator=generator)}
    for image, (rows, columns) in enumerate(grids):
        for y, x in points(rows, columns):
            painted = inputs[PIXELS].clone()
            painted[0, 28 * image + int(y * rows) * columns + int(x * columns)] += 3.0
            changed = {**inputs, PIXELS: painted}
            sample = check_truth(FuyuAdapter(), model, inputs, changed, {image: (0, y, x)})
    assert [view.grid for view in sample.views] == [(1, 4, 7), (1, 5, 2)]
    assert [view.image for view in sample.views] == [0, 1]
