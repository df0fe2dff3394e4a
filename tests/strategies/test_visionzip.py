"""VisionZip against its formulas, and the laws of every method."""

import pytest
from references_encoder import REFERENCES

from lightkv.testing import StrategySuite


class TestVisionZip(StrategySuite):
    preset = "visionzip"


class TestVisionZipOfThePaper(StrategySuite):
    preset = {
        "scorer": "class-attention",
        "matcher": {"name": "dominant-contextual", "contextual": 0.5},
        "aggregator": {"name": "contextual", "combine": "mean"},
    }


@pytest.mark.parametrize("name", [name for name in REFERENCES if name.startswith("visionzip")])
def test_equals_the_slow_reference(name):
    assert max(REFERENCES[name](seed) for seed in range(20)) < 1e-5
