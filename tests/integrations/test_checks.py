"""Requests checked by the plan, and what is counted of them; needs no vLLM."""

from types import SimpleNamespace

import pytest
import torch
from transformers import LlavaNextConfig, Qwen2VLConfig

from lightkv.core.errors import ConfigError, LayoutError, ModelError
from lightkv.integrations.vllm.announce import announcement, prompt_savings
from lightkv.integrations.vllm.checks import RequestChecks
from lightkv.integrations.vllm.hook import EngineHook
from lightkv.integrations.vllm.plan import ServingPlan
from lightkv.integrations.vllm.savings import Savings
from lightkv.integrations.vllm.schedules import serving_pipeline

STAGES = [
    {"after_layer": 4, "ratio": 0.5, "windows": 4},
    {"after_layer": 8, "ratio": 0.5, "windows": 1},
]
LAYERS = 12


def plan_of(pipeline="lightkv", schedule=STAGES, **changes):
    return ServingPlan(
        serving_pipeline(pipeline, LAYERS, block_size=16, schedule=schedule, **changes)
    )


def picture(grid, *, offset=2, modality="image", tokens=None, data=True, identifier=None):
    """A feature of Qwen2-VL: `grid` are patches, four of which are a token."""
    frames, rows, columns = grid
    length = frames * rows * columns // 4 if tokens is None else tokens
    name = f"{modality}_grid_thw"
    fields = {name: SimpleNamespace(data=torch.tensor([grid]))} if data else {}
    return SimpleNamespace(
        data=fields if data is not None else None,
        modality=modality,
        identifier=identifier or f"{grid}{modality}",
        mm_position=SimpleNamespace(offset=offset, length=length, is_embed=None),
    )


def checks(plan=None, config=None):
    return RequestChecks(config or Qwen2VLConfig(), plan or plan_of())


def test_text_alone_has_no_entry():
    assert checks().entry([], 10, 1) is None


def test_a_request_that_fits():
    entry = checks().entry([picture((1, 16, 16))], 100, 100)
    assert (entry.vision, entry.piece, entry.prompt) == (64, 100, 100)


def test_a_piece_that_no_step_computes():
    with pytest.raises(ConfigError, match="one step") as caught:
        checks().entry([picture((1, 16, 16))], 100, 99)
    assert caught.value.field == "max_num_batched_tokens"
    assert "--max-num-batched-tokens 100" in caught.value.remedy


def test_without_text_to_read_the_piece_ends_behind_the_picture():
    plan = plan_of("tome")
    entry = checks(plan).entry([picture((1, 16, 16))], 100, 67)
    assert entry.piece == 67


def test_a_matcher_that_looks_around_reads_text():
    """DART takes pivots among the text behind the picture: how a prompt is cut may not change them."""
    plan = plan_of("dart", schedule=[{"after_layer": 2, "ratio": 0.5}])
    assert checks(plan).entry([picture((1, 16, 16))], 100, 100).piece == 100
    with pytest.raises(ConfigError, match="one step"):
        checks(plan).entry([picture((1, 16, 16))], 100, 99)


def test_a_grid_that_is_too_small():
    plan = plan_of(partitioner={"name": "windows", "clamp": False})
    with pytest.raises(ConfigError, match="4 windows per side"):
        checks(plan).entry([picture((1, 4, 4))], 100, 100)


@pytest.mark.parametrize(
    ("feature", "error", "message"),
    [
        (picture((1, 16, 16), modality="audio"), ModelError, "audio"),
        (picture((1, 16, 16), data=False), ModelError, "embeddings"),
        (picture((1, 16, 16), data=None), LayoutError, "cache"),
        (picture((1, 16, 16), tokens=60), LayoutError, "placeholders"),
    ],
)
def test_pictures_that_cannot_be_read(feature, error, message):
    with pytest.raises(error, match=message):
        checks().entry([feature], 100, 100)


def test_embeddings_of_a_picture_without_its_size():
    feature = picture((1, 16, 16), data=False)
    with pytest.raises(ModelError, match="image_sizes"):
        checks(config=LlavaNextConfig()).entry([feature], 100, 100)


def test_data_that_were_here_once_are_remembered():
    known = checks()
    known.entry([picture((1, 16, 16), identifier="a")], 100, 100)
    again = picture((1, 16, 16), identifier="a", data=None)
    assert known.pictures.readable(again)
    assert known.entry([again], 100, 100).vision == 64
    assert not known.pictures.readable(picture((1, 16, 16), identifier="b", data=None))


def test_savings_of_a_prompt():
    plan = plan_of()
    entry = checks(plan).entry([picture((1, 16, 16))], 100, 100)
    saved = Savings(plan).of(entry, 16)
    assert saved.vision == 64
    # A half of the layers' thirds: 64, 32 and 16 tokens in four layers each.
    assert saved.kept == pytest.approx((64 + 32 + 16) / 3)
    # 100, 68 and 52 tokens in blocks of 16, four layers wide; uncompressed, twelve layers.
    assert (saved.blocks, saved.uncompressed) == (7 + 5 + 4, 21)


def test_savings_with_a_stage_before_the_first_layer():
    schedule = [{"after_layer": 0, "ratio": 0.5}, {"after_layer": 6, "ratio": 0.5}]
    plan = plan_of("tome", schedule, matcher={"name": "bipartite", "metric": "hidden"})
    entry = checks(plan).entry([picture((1, 16, 16))], 100, 100)
    saved = Savings(plan).of(entry, 16)
    assert saved.kept == pytest.approx((32 + 16) / 2)
    assert (saved.blocks, saved.uncompressed) == (5 + 4, 14)


def test_the_log_counts_a_picture():
    plan = plan_of()
    saved = prompt_savings(plan, 16)
    first, second = announcement(plan, Savings(plan).grouping, 1001, 16)
    assert "pipeline lightkv" in first
    assert "after decoder layers 4, 8 of 12; 3 groups of 4 layers" in first
    assert f"takes {saved.blocks} blocks instead of {saved.uncompressed:g}" in second
    assert f"about {1000 // saved.blocks} at once" in second


def test_a_picture_too_small_to_count_with_is_left_out_of_the_log():
    plan = plan_of(
        schedule=[{"after_layer": 4, "ratio": 0.5, "windows": 25}],
        partitioner={"name": "windows", "clamp": False},
    )
    assert len(announcement(plan, Savings(plan).grouping, 1001, 16)) == 1


@pytest.mark.parametrize("additional", [{}, None, {"other": 1}, object()])
def test_the_hook_leaves_other_engines_alone(additional):
    config = SimpleNamespace(
        model_config=SimpleNamespace(
            hf_config=SimpleNamespace(architectures=["LlavaForConditionalGeneration"])
        ),
        additional_config=additional,
    )
    EngineHook.verify_and_update_config(config)
