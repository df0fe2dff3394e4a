"""The decoder-side baselines, their switches and the wrappers, through the public suite."""

import pytest

from lightkv.core.plugins import registry
from lightkv.testing import StrategySuite

MEAN = {"name": "weighted-mean", "weights": "uniform"}


class TestPiToMe(StrategySuite):
    preset = "pitome"


class TestPiToMeCode(StrategySuite):
    preset = {
        "partitioner": "windows",
        "scorer": {"name": "energy", "branch": "code", "margin": 0.3, "slope": 0.1, "alpha": 0.5},
        "matcher": {"name": "ranked-bipartite", "metric": "keys"},
        "aggregator": {"name": "weighted-mean", "weights": "size"},
        "schedule": [{"after_layer": 1, "ratio": 0.5, "windows": 2}],
    }


class TestToFu(StrategySuite):
    preset = "tofu"


class TestToFuDestination(StrategySuite):
    preset = {
        "matcher": "bipartite",
        "aggregator": {"name": "fusion", "mode": "merge", "divisor": "destination"},
    }


class TestPyramidDrop(StrategySuite):
    preset = "pyramiddrop"


class TestSparseVLM(StrategySuite):
    preset = "sparsevlm"


class TestSparseVLMPaper(StrategySuite):
    preset = {
        "partitioner": {"name": "whole", "scope": "sample"},
        "scorer": {"name": "text-raters", "threshold": "inclusive"},
        "matcher": {"name": "top-k-clusters", "assign": "cosine"},
        "aggregator": "sum",
    }


class TestSparseVLMRank(StrategySuite):
    preset = {
        "scorer": "text-raters",
        "matcher": {"name": "top-k-clusters", "budget": "rank", "scale": 0.7},
        "aggregator": MEAN,
    }


class TestDART(StrategySuite):
    preset = "dart"


class TestDARTInWindows(StrategySuite):
    preset = {
        "partitioner": "windows",
        "matcher": {"name": "pivots", "vision_pivots": 2, "text_pivots": 3},
        "schedule": [{"after_layer": 1, "ratio": 0.5, "windows": 2}],
    }


class TestDARTThreshold(StrategySuite):
    preset = {"matcher": {"name": "pivots", "threshold": 0.5}}


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


BASELINES = ["pitome", "tofu", "pyramiddrop", "sparsevlm", "dart"]


@pytest.mark.parametrize("name", BASELINES)
def test_it_is_registered_by_lightkv(name):
    assert registry().presets[name].package == "lightkv"
