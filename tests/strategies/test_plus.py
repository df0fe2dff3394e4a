"""lightkv-plus, lightkv-lean and the parts around them, through the public suite."""

import pytest
from references import DIFFERENCES

from lightkv.core.pipeline.pipeline import Pipeline, PipelineSpec
from lightkv.testing import StrategySuite


class TestFirstStages(StrategySuite):
    """Windows that share the budget of their view."""

    preset = "lightkv-plus"
    temporal = True


class TestLaterStages(StrategySuite):
    """The less attended half flows into the rest."""

    preset = {
        "scorer": "causal-attention",
        "matcher": {"name": "guided", "split": "importance"},
        "aggregator": "weighted-mean",
    }


class TestLean(StrategySuite):
    """Centres that are far apart, at first without guidance."""

    preset = "lightkv-lean"
    temporal = True


class TestLeanInSmallWindows(StrategySuite):
    """So small that pictures of the suite have several."""

    preset = {
        "partitioner": {"name": "windows", "frames": 8, "population": 16, "clamp": True},
        "scorer": "causal-attention",
        "matcher": {"name": "farthest-first", "join": True},
        "aggregator": "weighted-mean",
    }
    temporal = True


class TestAdaptive(StrategySuite):
    """A budget that follows the picture, weighted by the words that carry the question."""

    preset = {
        "partitioner": "windows",
        "scorer": "weighted-causal-attention",
        "matcher": {"name": "adaptive-bipartite", "divergence": 0.9},
        "aggregator": "weighted-mean",
        "schedule": [{"after_layer": 1, "ratio": 0.5, "windows": 2}],
    }


@pytest.mark.parametrize(
    "method", ["guided, split by importance", "adaptive-bipartite, weighted-causal-attention"]
)
def test_equals_its_slow_reference(method):
    assert DIFFERENCES[method]() < 1e-5


@pytest.mark.parametrize("retention", [0.55, 0.35, 0.2])
def test_roles_change_after_the_first_stage(retention):
    pipeline = Pipeline.build("lightkv-plus", 32, retention=retention)
    first, *later = [placed.stage for placed in pipeline.stages]
    assert first.partitioner.name == "windows"
    assert {(s.partitioner.name, s.matcher.split) for s in later} == {("whole", "importance")}
    assert abs(pipeline.retention - retention) < 0.005
    again = Pipeline.build(PipelineSpec.from_yaml(pipeline.to_yaml()), 32)
    assert again.stages == pipeline.stages


@pytest.mark.parametrize(("retention", "first"), [(0.35, 0.757), (0.2, 0.432), (0.1, 0.216)])
def test_lean_keeps_the_shares_of_later_stages(retention, first):
    pipeline = Pipeline.build("lightkv-lean", 12, retention=retention)
    assert [placed.spec.after_layer for placed in pipeline.stages] == [0, 2, 4, 6, 8]
    kept = [1 - placed.spec.ratio for placed in pipeline.stages]
    assert kept == pytest.approx([first, 0.7, 0.7, 0.6, 0.5], abs=0.002)
    assert [placed.stage.scorer.name for placed in pipeline.stages] == [
        "uniform",
        *["causal-attention"] * 4,
    ]
    assert abs(pipeline.retention - retention) < 0.005
    again = Pipeline.build(PipelineSpec.from_yaml(pipeline.to_yaml()), 12)
    assert again.stages == pipeline.stages
