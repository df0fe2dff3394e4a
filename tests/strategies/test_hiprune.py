"""HiPrune against its formulas, and the laws of every method."""

import pytest
from references_pictures import REFERENCES

from lightkv.core.errors import ConfigError
from lightkv.core.stage.stage import Stage
from lightkv.testing import StrategySuite


class TestHiPrune(StrategySuite):
    preset = "hiprune"


@pytest.mark.parametrize("name", [name for name in REFERENCES if name.startswith("hiprune")])
def test_equals_the_slow_reference(name):
    assert max(REFERENCES[name](seed) for seed in range(6)) < 1e-5


@pytest.mark.parametrize("layer", [1.0, 0.0, -0.5, 2.5])
def test_a_share_of_the_depth_lies_between_0_and_1(layer):
    matcher = {"name": "anchors-buffers-registers", "layer": layer}
    with pytest.raises(ConfigError, match="share of the encoder's depth"):
        Stage.preset("hiprune", matcher=matcher)
