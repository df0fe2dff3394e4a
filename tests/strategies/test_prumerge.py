"""PruMerge and PruMerge+ against their formulas, and the laws of every method."""

import pytest
from references_encoder import REFERENCES

from lightkv.strategies.prumerge import Outliers
from lightkv.testing import OrderFreeSuite, StrategySuite


class TestPruMerge(OrderFreeSuite):
    preset = "prumerge"


class TestPruMergePlus(StrategySuite):
    preset = "prumerge-plus"


class TestPruMergeOfThePaper(StrategySuite):
    preset = {
        "scorer": {"name": "class-attention", "heads": "joint", "layer": -1},
        "matcher": {"name": "class-outliers", "summary": False},
        "aggregator": {"name": "neighbour-sum", "normalize": "mean"},
    }


@pytest.mark.parametrize("name", [name for name in REFERENCES if name.startswith("prumerge")])
def test_equals_the_slow_reference(name):
    assert max(REFERENCES[name](seed) for seed in range(20)) < 1e-5


def test_only_the_published_budget_reads_values():
    assert not Outliers().dynamic
    assert Outliers(budget="outliers").dynamic
