"""Numbers of NumPy where a user gives numbers, and whole numbers as wide as a seed."""

import numpy as np
import pytest
import torch

from lightkv import Pipeline, PipelineSpec, Recipe, Schedule, Stage, StageSpec, VisionLayout
from lightkv.core.errors import ConfigError
from lightkv.functional import compress_stage

LAYERS = 12


def test_numbers_of_numpy_are_numbers():
    plain = Pipeline.build(
        "lightkv", LAYERS, schedule=[{"after_layer": 2, "ratio": 0.5, "windows": 2}]
    )
    stage = {"after_layer": np.int64(2), "ratio": np.float32(0.5), "windows": np.int32(2)}
    assert Pipeline.build("lightkv", LAYERS, schedule=[stage]).schedule == plain.schedule
    assert "numpy" not in Pipeline.build("lightkv", LAYERS, schedule=[stage]).to_yaml()
    half = Pipeline.build("lightkv", LAYERS, retention=np.float64(0.5)).schedule
    assert Pipeline.build("lightkv", LAYERS, retention=0.5).schedule == half
    assert Schedule.single(LAYERS, np.float32(0.5), np.int64(2)).retention(LAYERS) == 0.5
    assert Stage.preset("random", ratio=np.float32(0.5), windows=np.int64(2)).ratio == 0.5
    assert PipelineSpec(matcher="top-k", proportional=np.bool_(True)).proportional is True


@pytest.mark.parametrize("preset", ["lightkv", "lightkv-release"])
def test_windows_of_numpy_are_windows(preset):
    layout = VisionLayout.from_spans([[(0, (2, 12, 12))]])
    hidden = torch.randn(1, 289, 8)

    def plan(windows, ratio):
        stage = Stage.preset(preset, ratio=ratio, windows=windows, scorer="uniform")
        return compress_stage(hidden, layout, stage)

    pairs = [(np.int64(4), 4)]
    if preset == "lightkv":
        pairs.append(({"space": np.int64(2), "time": np.int64(1)}, {"space": 2, "time": 1}))
    for numpys, pythons in pairs:
        stage = Stage.preset(preset, ratio=np.float32(0.5), windows=numpys)
        assert repr(stage) == repr(Stage.preset(preset, ratio=0.5, windows=pythons))
        one, other = plan(numpys, np.float32(0.5)), plan(pythons, 0.5)
        assert one.layout.vision_counts == other.layout.vision_counts
        assert torch.equal(one.hidden_states, other.hidden_states)
        assert repr(StageSpec(after_layer=2, ratio=0.5, windows=numpys).windows) == repr(pythons)


def test_numbers_of_numpy_inside_components_are_numbers():
    def plain(number, seed):
        important = {"name": "deduplicate", "important": number}
        anchors = {"name": "anchors", "first": seed}
        inner = {"name": "protect", "of": {"name": "top-k", "floors": [{"at": [seed, number]}]}}
        stages = [
            {"after_layer": 2, "ratio": 0.5, "overrides": {"matcher": anchors}},
            {"after_layer": 3, "ratio": 0.5, "overrides": {"matcher": inner}},
        ]
        recipe = {"overrides": [{"matcher": anchors}]}
        return [{"matcher": important, "schedule": each} for each in (stages, recipe)]

    python, numpy = plain(0.5, 4), plain(np.float32(0.5), np.int64(4))
    for expected, data in zip(python, numpy, strict=True):
        text = PipelineSpec.parse(expected).to_yaml()
        assert PipelineSpec.parse(data).to_yaml() == text
        recipe = data["schedule"]
        schedule = (
            Recipe(**recipe)
            if isinstance(recipe, dict)
            else tuple(StageSpec(**stage) for stage in recipe)
        )
        assert PipelineSpec(matcher=data["matcher"], schedule=schedule).to_yaml() == text
        assert PipelineSpec.from_yaml(text) == PipelineSpec.parse(data)


@pytest.mark.parametrize("seed", [0, -(2**63), 2**63, 2**64 - 1, np.uint64(2**64 - 1)])
def test_seeds_have_64_bits(seed):
    for role, name in (("scorer", "noise"), ("matcher", "random-bipartite")):
        built = Pipeline.build("random", LAYERS, **{role: {"name": name, "seed": seed}})
        assert getattr(built.stages[0].stage, role).seed == seed
        assert PipelineSpec.from_yaml(built.to_yaml()) == built.spec
    stage = Stage.preset("random", scorer={"name": "noise", "seed": seed})
    layout = VisionLayout.from_spans([[(0, (1, 4, 4))]])
    result = compress_stage(torch.randn(1, 17, 8), layout, stage)
    assert result.layout.vision_counts == (8,)


def test_depths_of_numpy_are_depths():
    depths, ratios, windows = np.array([0.25, 0.5]), np.array([0.5, 0.5]), np.array([4, 2])
    found = Schedule.at_depths(LAYERS, 0.5, depths, ratios, windows)
    assert found == Schedule.at_depths(LAYERS, 0.5, [0.25, 0.5], [0.5, 0.5], [4, 2])
    with pytest.raises(ConfigError, match="depths"):
        Schedule.at_depths(LAYERS, 0.5, depths[::-1], ratios)
