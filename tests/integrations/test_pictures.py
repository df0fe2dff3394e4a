"""Geometry of pictures from the engine's features, compared with the adapters; needs no vLLM."""

from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_llava, tiny_llava_next, tiny_qwen2_5_vl
from torch.nn import functional
from transformers import Qwen3VLConfig

from lightkv.adapters.families.llava import LlavaAdapter
from lightkv.adapters.families.llava_next import LlavaNextAdapter
from lightkv.adapters.families.qwen_vl import QwenVLAdapter
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.adapters.pictures.placing import PictureView
from lightkv.core.errors import ConfigError, LayoutError, ModelError
from lightkv.integrations.vllm import pictures, setup
from lightkv.integrations.vllm.families import FAMILIES, family_of
from lightkv.integrations.vllm.pictures import PictureReader

IMAGE, VIDEO = 5, 6


def feature(offset, length, data=(), *, modality="image", embeds=None, identifier="a"):
    """What is read of vLLM's MultiModalFeatureSpec; fields are wrapped as there."""
    fields = {name: SimpleNamespace(data=value) for name, value in dict(data).items()}
    place = SimpleNamespace(offset=offset, length=length, is_embed=embeds)
    return SimpleNamespace(data=fields, modality=modality, identifier=identifier, mm_position=place)


def same(sample, model, adapter, inputs):
    """The sample is the one that the adapter makes of the whole inputs."""
    layout = adapter.layout(model, read_inputs(adapter.input_module(model), (), inputs))
    [wanted] = layout.samples
    assert len(sample.views) == len(wanted.views)
    for ours, theirs in zip(sample.views, wanted.views, strict=True):
        assert (ours.grid, ours.image) == (theirs.grid, theirs.image)
        assert ours.positions.tolist() == theirs.positions.tolist()
        assert ours.cells.tolist() == theirs.cells.tolist()


def test_square():
    model = tiny_llava()
    reader = PictureReader(model.config)
    spans = reader.spans([feature(40, 36, identifier="b"), feature(2, 36)])
    ids = torch.tensor([[9, 9, *[IMAGE] * 36, 9, 9, *[IMAGE] * 36, 9]])
    inputs = {"input_ids": ids, "pixel_values": torch.zeros(2, 3, 48, 48)}
    assert [span.runs for span in spans] == [((2, 38),), ((40, 76),)]
    same(reader.sample(spans), model, LlavaAdapter(), inputs)


def test_any_resolution():
    model = tiny_llava_next()
    reader = PictureReader(model.config)
    size = (100, 240)
    [count] = {reader.picture(("any_resolution", *size)).tokens}
    sizes = torch.tensor(size)
    spans = reader.spans([feature(1, count, {"image_sizes": sizes})])
    inputs = {
        "input_ids": torch.tensor([[9, *[IMAGE] * count, 9]]),
        "pixel_values": torch.zeros(1, 3, 3, 48, 48),
        "image_sizes": sizes[None],
    }
    same(reader.sample(spans), model, LlavaNextAdapter(), inputs)


def test_grids_of_images_and_videos():
    model = tiny_qwen2_5_vl()
    reader = PictureReader(model.config)
    image, video = torch.tensor([1, 8, 12]), torch.tensor([2, 8, 8])
    features = [
        feature(1, 24, {"image_grid_thw": image}),
        feature(27, 32, {"video_grid_thw": video}, modality="video", identifier="b"),
    ]
    ids = torch.tensor([[9, *[IMAGE] * 24, 9, 9, *[VIDEO] * 32, 9]])
    inputs = {
        "input_ids": ids,
        "pixel_values": torch.zeros(96, 96),
        "image_grid_thw": image[None],
        "pixel_values_videos": torch.zeros(128, 96),
        "video_grid_thw": video[None],
    }
    same(reader.sample(reader.spans(features)), model, QwenVLAdapter(), inputs)


def internvl():
    return SimpleNamespace(
        model_type="internvl",
        vision_config=SimpleNamespace(model_type="internvl_vision"),
        text_config=SimpleNamespace(model_type="qwen2"),
        image_seq_length=9,
    )


def cut(picture, rows, columns, side=48):
    """The tiles of a picture `[3, rows · side, columns · side]` and a thumbnail of the whole."""
    tiles = picture.reshape(3, rows, side, columns, side).permute(1, 3, 0, 2, 4)
    small = functional.interpolate(picture[None], (side, side), mode="area")
    return torch.cat([tiles.reshape(-1, 3, side, side), small])


def test_tiles_are_looked_at_once(monkeypatch):
    seed = torch.randn(1, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    tiles = cut(functional.interpolate(seed, (96, 144), mode="bilinear")[0], 2, 3)
    looked = []
    arrangement = pictures.arrangement
    monkeypatch.setattr(pictures, "arrangement", lambda *a: looked.append(1) or arrangement(*a))
    reader = PictureReader(internvl())
    count = len(tiles) * 9
    # vLLM's range has a token before and behind the tiles.
    embeds = torch.tensor([False, *[True] * count, False])
    seen = feature(0, count + 2, {"pixel_values": tiles}, embeds=embeds)
    spans = reader.spans([seen])
    seen.data = None
    assert reader.spans([seen]) == spans
    assert len(looked) == 1
    mosaic, thumbnail = reader.sample(spans).views
    assert (mosaic.grid, thumbnail.grid) == ((1, 6, 9), (1, 3, 3))
    assert mosaic.cells.tolist() == PictureView.mosaic(2, 3, 3).cells.tolist()
    assert [*mosaic.positions, *thumbnail.positions] == list(range(1, count + 1))


def test_one_tile_has_no_thumbnail():
    reader = PictureReader(internvl())
    spans = reader.spans([feature(0, 9, {"pixel_values": torch.zeros(1, 3, 48, 48)})])
    assert [view.grid for view in reader.sample(spans).views] == [(1, 3, 3)]


def test_text_between_the_frames_of_a_video():
    reader = PictureReader(tiny_qwen2_5_vl().config)
    embeds = torch.tensor([False, *[True] * 16, False, False, *[True] * 16, False])
    grid = {"video_grid_thw": torch.tensor([2, 8, 8])}
    [span] = reader.spans([feature(3, 36, grid, modality="video", embeds=embeds)])
    assert span.runs == ((4, 20), (22, 38))
    assert (span.tokens, span.end) == (32, 38)
    [view] = reader.sample((span,)).views
    assert view.grid == (2, 4, 4)
    assert view.positions.tolist() == [*range(4, 20), *range(22, 38)]


def test_equal_prompts_have_equal_spans():
    reader = PictureReader(tiny_qwen2_5_vl().config)
    grid = {"image_grid_thw": torch.tensor([[1, 8, 12]])}
    one, other = (reader.spans([feature(1, 24, grid, identifier=name)]) for name in "ab")
    assert hash(one) == hash(other)
    assert one == other
    assert reader.sample(one) is reader.sample(other)


def test_a_number_of_placeholders_that_is_not_the_pictures():
    reader = PictureReader(tiny_qwen2_5_vl().config)
    grid = {"image_grid_thw": torch.tensor([1, 8, 12])}
    with pytest.raises(LayoutError, match=r"23 image placeholders.* takes 24.*video_pruning_rate"):
        reader.spans([feature(1, 23, grid)])


def test_a_picture_without_its_data():
    reader = PictureReader(tiny_qwen2_5_vl().config)
    with pytest.raises(ModelError, match="without image_grid_thw"):
        reader.spans([feature(1, 24)])
    gone = feature(1, 24)
    gone.data = None
    with pytest.raises(LayoutError, match="mm_processor_cache_type='lru'"):
        reader.spans([gone])


def test_a_kind_of_picture_that_is_not_mapped():
    reader = PictureReader(internvl())
    with pytest.raises(ModelError, match=r"video inputs are unknown for InternVL.*knows image"):
        reader.spans([feature(1, 9, modality="video")])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SimpleNamespace(model_type="kimi", architectures=["Kimi"], vision_config=1), "no family"),
        (
            SimpleNamespace(model_type="llama", architectures=["LlamaForCausalLM"]),
            "no vision tokens",
        ),
        (
            SimpleNamespace(
                model_type="llava", vision_config=SimpleNamespace(model_type="pixtral")
            ),
            "Pixtral tower",
        ),
    ],
)
def test_a_model_that_is_not_mapped(config, message):
    with pytest.raises(ModelError, match=message) as error:
        family_of(config)
    if "Pixtral" not in message:
        assert all(family.architecture in str(error.value) for family in FAMILIES)


def test_a_decoder_of_another_shape():
    config = internvl()
    config.text_config.model_type = "gpt_oss"
    with pytest.raises(ModelError, match=r"gpt_oss.*one of llama, mistral"):
        family_of(config)


def engine(config, schedule):
    """What a plan is made of, as vLLM's config has it."""
    return SimpleNamespace(
        additional_config={"lightkv": {"pipeline": "tome", "schedule": schedule}},
        model_config=SimpleNamespace(hf_config=config, hf_text_config=config.text_config),
        cache_config=SimpleNamespace(block_size=32, user_specified_block_size=True),
    )


def test_nothing_is_compressed_before_the_last_deep_layer(monkeypatch):
    monkeypatch.setattr(setup, "check_engine", lambda config: None)
    config = Qwen3VLConfig(
        text_config={"num_hidden_layers": 9},
        vision_config={"deepstack_visual_indexes": [0, 1, 2], "depth": 3},
    )
    with pytest.raises(ConfigError, match="after_layer"):
        setup.plan_of(engine(config, [{"after_layer": 2, "ratio": 0.5, "windows": 1}]))
    plan = setup.plan_of(engine(config, [{"after_layer": 3, "ratio": 0.5, "windows": 1}]))
    assert plan.layers == (3, 6)
