"""lightkv-plus and the parts around it, through the public suite."""

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
