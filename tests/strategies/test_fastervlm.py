"""FasterVLM against its formulas, and the laws of every method."""

import pytest
from references_encoder import REFERENCES

from lightkv.testing import OrderFreeSuite


class TestFasterVLM(OrderFreeSuite):
    preset = "fastervlm"


@pytest.mark.parametrize("name", [name for name in REFERENCES if name.startswith("fastervlm")])
def test_equals_the_slow_reference(name):
    assert max(REFERENCES[name](seed) for seed in range(20)) < 1e-5
