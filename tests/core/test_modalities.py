"""Modalities: layouts of time, windows over time, and shares that each modality has for itself."""

import numpy as np
import pytest
import torch
import typer

from lightkv import VisionLayout
from lightkv.cli.options import read_retention
from lightkv.core.cost.counting import ViewSize, count_savings, prompt_layout
from lightkv.core.cost.flops import DecoderShape
from lightkv.core.errors import ConfigError, LayoutError
from lightkv.core.layout import SampleLayout, View
from lightkv.core.pipeline.pipeline import Pipeline, PipelineSpec, resolve_spec
from lightkv.core.pipeline.recipe import Recipe
from lightkv.core.plugins import registry
from lightkv.core.stage.functional import compress_stage
from lightkv.core.stage.partitions import partition_of
from lightkv.core.stage.stage import Stage
from lightkv.integrations.vllm.plan import check_pipeline
from lightkv.strategies.components.windows import Whole, Windows

SHAPE = DecoderShape(24, 64, 4, 2, 16, 96, 200)
MIXED = [(2, (1, 8, 8)), (70, (100, 1, 1), "audio"), (175, (3, 4, 4), "video")]


def mixed(length=230):
    return VisionLayout.from_spans([MIXED], length=length)


def labels(partitioner, layout, windows, ratio=0.5):
    return partition_of(layout, 0, partitioner, windows, ratio).label


# -- layouts --------------------------------------------------------------------------------------


def test_a_span_may_name_its_modality():
    layout = mixed()
    assert layout.modalities == ("image", "video", "audio")
    assert layout.counts_by_modality == ({"image": 64, "video": 48, "audio": 100},)
    assert layout.samples[0].tokens.modality.tolist() == [0] * 64 + [2] * 100 + [1] * 48
    plain = VisionLayout.from_spans([[span[:2] for span in MIXED]], length=230)
    assert plain.modalities == ("image",)
    assert plain.key != layout.key


@pytest.mark.parametrize(
    ("span", "told"),
    [
        ((0, (4, 1, 1), "sound"), "no such modality.*image, video, audio"),
        ((0, (1, 4, 5), "audio"), r"neither rows nor columns.*\(20, 1, 1\)"),
        ((0, (1, 4, 5), 3), "a span is"),
    ],
)
def test_wrong_spans_are_typed_errors(span, told):
    with pytest.raises(LayoutError, match=told):
        VisionLayout.from_spans([[span]], length=30)


# -- windows --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("windows", "parts"), [(1, 1), (4, 4), ({"space": 7, "time": 2}, 2)])
def test_windows_of_audio_are_over_time(windows, parts):
    layout = VisionLayout.from_spans([[(0, (10, 1, 1), "audio")]], length=12)
    found = labels(Windows(), layout, windows)
    assert len(set(found.tolist())) == parts
    assert (np.diff(found) >= 0).all()
    # A grid of one column, if nobody says that it is sound, is a video of frames of one token.
    video = VisionLayout.from_spans([[(0, (10, 1, 1))]], length=12)
    assert len(set(labels(Windows(), video, 1).tolist())) == 10


def test_windows_over_time_nest_over_the_stages():
    layout = VisionLayout.from_spans([[(0, (50, 1, 1), "audio")]], length=52)
    hidden = torch.randn(1, 52, 8)
    for windows in (8, 4, 1):
        stage = Stage.preset("lightkv", windows=windows, ratio=0.5, scorer="uniform")
        result = compress_stage(hidden, layout, stage)
        hidden, layout = result.hidden_states, result.layout
    assert layout.vision_counts == (7,)  # 50, 2 · 4 + 6 · 3, 4 + 3 · 3, and half of these


def test_bounded_windows_of_audio_are_cut_finer_over_time():
    layout = VisionLayout.from_spans([[(0, (1000, 1, 1), "audio")]], length=1001)
    found = labels(Windows(population=64), layout, None)
    assert np.bincount(found).max() <= 64
    assert len(set(found.tolist())) == 16


def test_windows_in_space_on_audio_are_a_typed_error():
    layout = VisionLayout.from_spans([[(0, (10, 1, 1), "audio")]], length=12)
    for preset, windows in (("lightkv", {"space": 4}), ("lightkv-release", 2)):
        stage = Stage.preset(preset, windows=windows, ratio=0.5)
        with pytest.raises(ConfigError, match="audio has no rows and columns"):
            stage.plan(layout)
    with pytest.raises(ConfigError, match="windows"):
        Pipeline.build(
            "lightkv", 12, schedule=[{"after_layer": 3, "ratio": 0.5, "windows": [4, 6]}]
        )


@pytest.mark.parametrize("partitioner", [Whole(scope="sample"), Whole(), Windows()])
def test_no_window_holds_two_modalities(partitioner):
    layout = mixed()
    found = labels(partitioner, layout, 1)
    kinds = layout.samples[0].tokens.modality
    for window in set(found.tolist()):
        assert len(set(kinds[found == window].tolist())) == 1
    assert len({(w, k) for w, k in zip(found, kinds, strict=True)}) == len(set(found.tolist()))


def interleaved():
    even, odd = np.arange(0, 16, 2), np.arange(1, 16, 2)
    video = View((2, 2, 2), even, np.arange(8), image=0, modality="video")
    sound = View((8, 1, 1), odd, np.arange(8), image=1, modality="audio")
    return VisionLayout(18, (SampleLayout((video, sound)),))


def test_interleaved_modalities_keep_their_own_windows_and_shares():
    layout = interleaved()
    stage = Stage.preset("fastv", ratio={"video": 0.5, "audio": 0.25}, scorer="uniform")
    result = compress_stage(torch.randn(1, 18, 8), layout, stage)
    assert result.layout.counts_by_modality == ({"video": 4, "audio": 6},)


def test_windows_by_rank_of_interleaved_modalities_are_a_typed_error():
    stage = Stage.preset("lightkv-release", windows=1, ratio={"video": 0.5})
    with pytest.raises(ConfigError, match="video and audio take turns"):
        stage.plan(interleaved())
    plan = Stage.preset("lightkv-release", windows=1, ratio={"image": 0.5}).plan(mixed())
    assert plan.counts_after == (212 - 32,)


# -- shares of their own --------------------------------------------------------------------------

ASKED = {"image": 0.5, "audio": 0.7}


@pytest.mark.parametrize("preset", sorted(registry().presets))
def test_each_modality_has_the_retention_that_was_asked(preset):
    spec = resolve_spec(preset)
    if isinstance(spec.schedule, Recipe) and spec.schedule.scope == "all":
        with pytest.raises(ConfigError, match="one retention is for all entries"):
            Pipeline.build(preset, 24, retention=ASKED)
        return
    pipeline = Pipeline.build(preset, 24, retention=ASKED)
    assert pipeline.retentions == pytest.approx(ASKED, abs=0.005)
    assert pipeline.asked == ASKED
    alone = Pipeline.build(preset, 24, retention=0.5)
    assert pipeline.schedule.after_layers == alone.schedule.after_layers
    again = PipelineSpec.from_yaml(pipeline.to_yaml())
    assert Pipeline.build(again, 24).retentions == pipeline.retentions


def test_what_is_not_named_is_left_alone():
    pipeline = Pipeline.build("fastv", 24, retention={"image": 0.5, "video": 1.0})
    found = count_savings(pipeline, SHAPE, mixed(), 1)
    assert found.retentions == pytest.approx({"image": 0.5, "video": 1.0, "audio": 1.0}, abs=0.03)
    assert found.planned_retention == pytest.approx((64 * 0.5 + 148) / 212, abs=0.005)
    assert found.to_dict()["retentions"] == found.retentions


def test_the_plan_counts_audio():
    layout = prompt_layout([ViewSize((750, 1, 1), modality="audio")], 20)
    found = count_savings(Pipeline.build("lightkv", 24, retention=0.5), SHAPE, layout, 1)
    assert found.retention == pytest.approx(0.5, abs=0.01)


def test_yaml_takes_shares_by_modality():
    spec = PipelineSpec.from_yaml(
        "matcher: top-k\nscorer: noise\nschedule: {retention: {audio: 0.4}, after_layer: 2}\n"
    )
    assert Pipeline.build(spec, 24).retentions == pytest.approx({"audio": 0.4})
    stage = {"after_layer": 3, "ratio": {"image": 0.5}, "windows": 2}
    assert Pipeline.build("lightkv", 8, schedule=[stage]).modalities == ("image",)


@pytest.mark.parametrize(
    ("retention", "field", "told"),
    [
        ({"sound": 0.5}, "retention", "no such modality.*image, video, audio"),
        ({"audios": 0.5}, "retention", "Did you mean 'audio'"),
        ({}, "retention", "no modality is named"),
        ({"audio": 0.0}, "retention.audio", "above 0 and at most 1"),
        ({"image": 0.5, "audio": 1.5}, "retention.audio", "above 0 and at most 1"),
        ({"audio": "half"}, "retention.audio", "above 0 and at most 1"),
        ({"audio": 0.01}, "retention", "reach"),
    ],
)
def test_wrong_retentions_are_typed_errors(retention, field, told):
    with pytest.raises(ConfigError, match=told) as caught:
        Pipeline.build("lightkv", 24, retention=retention)
    assert field in caught.value.field


@pytest.mark.parametrize("ratio", [{"image": 1.0}, {"sound": 0.5}, {}, {"image": True}])
def test_wrong_ratios_are_typed_errors(ratio):
    with pytest.raises(ConfigError) as caught:
        Pipeline.build("lightkv", 24, schedule=[{"after_layer": 3, "ratio": ratio, "windows": 1}])
    assert "ratio" in caught.value.field


def test_a_ratio_with_text_in_play_is_one_for_all():
    stage = {"site": "cache", "scope": "all", "ratio": {"image": 0.5}}
    with pytest.raises(ConfigError, match="one ratio is for all entries"):
        Pipeline.build("rand", 24, schedule=[stage])


def test_a_prompt_without_any_of_the_named_is_a_typed_error():
    pipeline = Pipeline.build("fastv", 24, retention={"audio": 0.5})
    pictures = VisionLayout.from_spans([[(0, (1, 4, 4))]], length=20)
    with pytest.raises(ConfigError, match=r"tokens of image only.*retention=\{'image': 0\.5\}"):
        count_savings(pipeline, SHAPE, pictures, 1)
    pipeline.check_prompt(VisionLayout.from_spans([[]], length=20))
    pipeline.check_prompt(mixed())


@pytest.mark.parametrize(
    ("text", "value"), [("0.4", 0.4), ("image=0.5, audio=0.7", {"image": 0.5, "audio": 0.7})]
)
def test_the_command_line_takes_shares_by_modality(text, value):
    assert read_retention(text) == value


@pytest.mark.parametrize("text", ["half", "image=x", "image=0.5=1"])
def test_the_command_line_refuses_what_is_no_share(text):
    with pytest.raises(typer.BadParameter, match="neither a number"):
        read_retention(text)


def test_vllm_takes_one_share_for_all():
    pipeline = Pipeline.build("lightkv", 24, retention={"image": 0.5})
    with pytest.raises(ConfigError, match="give one retention for all vision tokens"):
        check_pipeline(pipeline, "preset")
