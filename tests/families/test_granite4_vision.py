"""The contract of Granite 4 Vision: any resolution, additions before chosen layers."""

import pytest
import torch
from rows import left_padded, row_ids
from tiny import TEXT, TOWER, seeded
from transformers import (
    Blip2QFormerConfig,
    DynamicCache,
    Granite4VisionConfig,
    Granite4VisionForConditionalGeneration,
    SiglipVisionConfig,
)

from lightkv.adapters.families.granite4_vision import Granite4VisionAdapter
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.core.errors import ConfigError
from lightkv.testing import AdapterSuite, Prompt
from lightkv.testing.truth import check_painted, points

IMAGE, TILE, SIDE, LAST = 5, 48, 3, 3
SIZES = ((40, 90), (96, 60))
"""(height, width) of images in pixels: two tiles across, and a square of four tiles, unpadded."""
TOKENS, TILES = (9 + 3 * 7, 9 + 6 * 5), (3, 5)
"""Of an image of each size: the base view and the grid with its newlines; tiles and the base view."""


class TestGranite4Vision(AdapterSuite):
    """The first image of a prompt is wide, the second tall."""

    # With several images in a row transformers repeats each image by itself for beams, not the row's.
    beam_prompts = (Prompt(2, 1, 3, seed=1), Prompt(5, 1, 6, seed=2))

    first_layer = LAST
    schedule = (
        {"after_layer": 4, "ratio": 0.5, "windows": 2},
        {"after_layer": 6, "ratio": 0.5, "windows": 1},
    )

    def make_model(self, attn_implementation="sdpa", **options):
        vision = {**TOWER, "hidden_size": 64, "num_hidden_layers": 3}
        config = Granite4VisionConfig(
            text_config={**TEXT, "num_hidden_layers": 9, "embedding_multiplier": 1.0},
            vision_config=SiglipVisionConfig(
                **vision, image_size=TILE, patch_size=8, vision_use_head=False
            ),
            qformer_config=Blip2QFormerConfig(
                hidden_size=64,
                num_attention_heads=1,
                encoder_hidden_size=64,
                num_hidden_layers=1,
                intermediate_size=48,
                cross_attention_frequency=1,
            ),
            image_token_index=IMAGE,
            vision_feature_select_strategy="full",
            vision_feature_layer=-1,
            image_grid_pinpoints=[[48, 96], [96, 48], [96, 96]],
            image_seq_length=9,
            downsample_rate="1/2",
            deepstack_layer_map=[[-2, 0], [-1, 2]],
            spatial_target_layers=[1, LAST],
            attn_implementation=attn_implementation,
        )
        return seeded(Granite4VisionForConditionalGeneration, config, **options)

    def make_inputs(self, model, prompts):
        rows, pixels, sizes = [], [], []
        for prompt in prompts:
            counts = TILES[: prompt.images]
            ids, generator = row_ids(prompt, [[IMAGE] * n for n in TOKENS[: prompt.images]])
            rows.append(ids)
            sizes += SIZES[: prompt.images]
            for count in counts:
                padded = torch.zeros(max(TILES), 3, TILE, TILE)
                padded[:count] = torch.randn(count, 3, TILE, TILE, generator=generator)
                pixels.append(padded)
        inputs = left_padded(rows)
        if pixels:
            inputs["pixel_values"] = torch.stack(pixels).to(model.dtype)
            inputs["image_sizes"] = torch.tensor(sizes)
        return inputs

    def call(self, model, inputs, **changes):
        """The decoder makes no cache by itself."""
        if changes.get("use_cache"):
            changes["past_key_values"] = DynamicCache(config=model.config)
        return super().call(model, inputs, **changes)


def added(model, inputs):
    """Layer → `[tokens, D]` what is added to the image tokens before it."""
    with torch.no_grad():
        made = model.get_image_features(inputs["pixel_values"], inputs["image_sizes"])
    return {layer: torch.cat(list(parts)) for layer, parts in made.deepstack_features}


def views_of(model, inputs):
    adapter = Granite4VisionAdapter()
    layout = adapter.layout(model, read_inputs(model.model, (), dict(inputs)))
    return layout.samples[0]


def test_layout_truth():
    """Of every addition; the grid of the wide image shows parts of its two tiles."""
    suite = TestGranite4Vision()
    model = suite.make_model()
    inputs = suite.make_inputs(model, [Prompt(images=1)])
    sample = views_of(model, inputs)
    assert [view.grid for view in sample.views] == [(1, 3, 3), (1, 3, 6)]
    at = torch.as_tensor(sample.positions)
    length = inputs["input_ids"].shape[1]

    def embedded(given, layer):
        out = torch.ones(length, 64)
        out[at] = added(model, given)[layer]
        return out

    for number, (rows, columns) in enumerate(((SIDE, SIDE), (SIDE, 2 * SIDE))):
        for y, x in points(rows, columns):
            painted = {**inputs, "pixel_values": inputs["pixel_values"].clone()}
            row, column = int(y * rows), int(x * columns)
            tile = number * (1 + column // SIDE)
            top, left = row * 16, column % SIDE * 16
            painted["pixel_values"][0, tile, :, top : top + 16, left : left + 16] += 3.0
            for layer in added(model, inputs):
                before, after = embedded(inputs, layer), embedded(painted, layer)
                check_painted(before, after, sample, {number: (0, y, x)})


def test_the_tokens_of_each_size_are_those_of_the_model():
    suite = TestGranite4Vision()
    model = suite.make_model()
    inputs = suite.make_inputs(model, [Prompt(images=2)])
    assert added(model, inputs)[0].shape[0] == len(views_of(model, inputs).positions)


def test_a_stage_before_the_last_addition_is_refused():
    suite = TestGranite4Vision()
    model = suite.make_model()
    stage = {"after_layer": LAST - 1, "ratio": 0.5, "windows": 1}
    with pytest.raises(ConfigError), suite.session(model, [], schedule=[stage]):
        pass
    with suite.session(model, [], schedule=[{**stage, "after_layer": LAST}]):
        pass
