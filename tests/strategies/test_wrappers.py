"""Prompt-aware matching and the wrappers: laws, slow references, what they refuse."""

import pytest
import torch
from references import DIFFERENCES

from lightkv import Stage, VisionLayout
from lightkv.core.errors import ConfigError, UnknownNameError
from lightkv.core.needs import Need
from lightkv.core.pipeline.pipeline import Pipeline, PipelineSpec
from lightkv.core.plugins import build_component
from lightkv.functional import compress_stage
from lightkv.testing import StrategySuite

OWN = ("guided", "protect", "recycle", "product", "sum", "floor", "warm-start")
MEAN = {"name": "weighted-mean", "weights": "uniform"}


class TestGuided(StrategySuite):
    preset = {
        "partitioner": "windows",
        "scorer": "causal-attention",
        "matcher": {"name": "guided", "protect": 0.2},
        "aggregator": "weighted-mean",
        "schedule": [{"after_layer": 1, "ratio": 0.4, "windows": 2}],
    }


class TestGuidedSharedBudget(StrategySuite):
    preset = {
        "partitioner": {"name": "windows", "budget": "view"},
        "scorer": "last-token",
        "matcher": {"name": "guided", "protect": 0.1, "normalize": "inner"},
        "aggregator": "weighted-mean",
        "schedule": [{"after_layer": 1, "ratio": 0.4, "windows": 2}],
    }


class TestProtectedBipartite(StrategySuite):
    preset = {
        "partitioner": {"name": "windows", "budget": "view"},
        "scorer": {"name": "floor", "of": "last-token", "share": 0.1},
        "matcher": {"name": "protect", "of": {"name": "bipartite", "metric": "keys"}, "share": 0.1},
        "aggregator": "weighted-mean",
        "schedule": [{"after_layer": 1, "ratio": 0.4, "windows": 2}],
    }


class TestRecycledTopK(StrategySuite):
    preset = {
        "scorer": {"name": "product", "of": ["last-token", {"name": "floor", "of": "text-raters"}]},
        "matcher": {"name": "recycle", "of": {"name": "protect", "of": "top-k", "share": 0.3}},
        "aggregator": MEAN,
    }


class TestRecycledPivots(StrategySuite):
    preset = {
        "scorer": {
            "name": "warm-start",
            "of": {"name": "sum", "of": ["text-raters", "energy"], "weights": [1, 2]},
            "first": {"name": "text-raters", "threshold": "inclusive"},
        },
        "matcher": {"name": "recycle", "of": "pivots"},
        "aggregator": "weighted-mean",
    }


class TestProtectedThreshold(StrategySuite):
    preset = {
        "scorer": "last-token",
        "matcher": {
            "name": "recycle",
            "of": {"name": "protect", "of": {"name": "pivots", "threshold": 0.4}},
        },
        "aggregator": "fusion",
    }


@pytest.mark.parametrize("name", [n for n in DIFFERENCES if n.startswith(OWN)])
def test_it_agrees_with_the_slow_reference(name):
    assert DIFFERENCES[name]() <= 1e-5


def test_what_the_inner_components_need_passes_through():
    scorer = build_component(
        "scorer", {"name": "product", "of": ["last-token", {"name": "floor", "of": "text-raters"}]}
    )
    assert scorer.needs() == {Need.LAST_ROW, Need.EMBEDDINGS, Need.PROMPT_ROWS}
    matcher = build_component("matcher", {"name": "protect", "of": "pivots"})
    assert matcher.needs_surroundings
    assert matcher.drops
    assert matcher.needs() == build_component("matcher", "pivots").needs()
    assert build_component("matcher", {"name": "protect", "of": "bipartite"}).knows_inner


def test_the_yaml_of_nested_components_gives_them_back():
    spec = PipelineSpec(
        scorer={"name": "floor", "of": {"name": "noise", "seed": 3}},
        matcher={"name": "recycle", "of": {"name": "protect", "of": "top-k"}},
    )
    assert PipelineSpec.from_yaml(spec.to_yaml()) == spec
    built = build_component("matcher", spec.matcher)
    assert built.spec() == spec.matcher


@pytest.mark.parametrize(
    ("role", "spec", "error", "reason"),
    [
        ("matcher", {"name": "recycle", "of": "bipartite"}, ConfigError, "does not drop"),
        ("matcher", {"name": "recycle", "of": "top-k-clusters"}, ConfigError, "does not drop"),
        ("matcher", {"name": "protect", "of": "nobody"}, UnknownNameError, "no matcher"),
        ("matcher", {"name": "protect"}, ConfigError, "required"),
        ("matcher", {"name": "protect", "of": "top-k", "share": 1.0}, ConfigError, "less than 1"),
        ("scorer", {"name": "floor", "of": {"name": "noise", "sed": 1}}, ConfigError, "sed"),
        ("scorer", {"name": "product", "of": ["size"]}, ConfigError, "at least 2"),
        ("scorer", {"name": "product", "of": "size"}, ConfigError, "of"),
        ("scorer", {"name": "sum", "of": ["size", "size"], "weights": [1]}, ConfigError, "weights"),
    ],
)
def test_what_cannot_work_is_refused_with_its_reason(role, spec, error, reason):
    with pytest.raises(error, match=reason):
        build_component(role, spec)


def test_a_pipeline_with_too_high_a_ratio_is_refused():
    with pytest.raises(ConfigError, match=r"at most 0\.45"):
        Pipeline.build("lightkv", 12, matcher={"name": "protect", "of": "bipartite"})
    with pytest.raises(ConfigError, match=r"at most 0\.4"):
        Pipeline.build("lightkv", 12, matcher={"name": "guided", "protect": 0.2})
    with pytest.raises(ConfigError, match="needs importances"):
        Pipeline.build("tome", 12, matcher="guided")


def tokens():
    torch.manual_seed(5)
    layout = VisionLayout.from_spans([[(1, (1, 6, 6))]])
    return torch.randn(1, 40, 8), layout, torch.rand(1, 2, 40)


@pytest.mark.parametrize("matcher", ["bipartite", "top-k", "ranked-bipartite", "pivots"])
def test_protected_tokens_stay_as_they_are(matcher):
    hidden, layout, row = tokens()
    roles = {"partitioner": "whole", "scorer": "last-token", "aggregator": "weighted-mean"}
    inner = {"name": "protect", "of": matcher, "share": 0.25}
    stage = Stage.from_roles({**roles, "matcher": inner}, ratio=0.35, windows=None)
    result = compress_stage(hidden, layout, stage, last_row=row, key=torch.randn(1, 2, 40, 4))
    best = row.mean(dim=1)[0, 1:37].topk(9).indices
    assert set(best.tolist()) <= set(result.assignment.survivor.tolist())
    slots = result.assignment.slot[best]
    assert torch.equal(result.hidden_states[0, 1:][slots], hidden[0, 1:37][best])
    assert result.layout.vision_counts == (36 - 12,)


def test_guided_matching_spares_what_the_prompt_looks_at():
    """Of two pairs that are equally alike the unimportant one merges."""
    hidden = torch.zeros(1, 5, 4)
    hidden[0, :2, 0] = hidden[0, 2:4, 1] = 1.0
    hidden[0, 1, 2] = hidden[0, 3, 2] = 0.5
    layout = VisionLayout.from_spans([[(0, (1, 1, 4))]])
    row = torch.tensor([[[0.4, 0.4, 0.1, 0.05, 0.05]]])
    stage = Stage.preset("lightkv", scorer="last-token", matcher="guided", ratio=0.25, windows=1)
    assert compress_stage(hidden, layout, stage, last_row=row).assignment.survivor.tolist() == [
        0,
        1,
        3,
    ]
