"""VScan against its formulas, its two stages, and the laws of every method."""

import pytest
from references import counts_after
from references_pictures import REFERENCES

from lightkv.core.errors import ConfigError
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.testing import StrategySuite


class TestVScan(StrategySuite):
    preset = "vscan"


@pytest.mark.parametrize("name", [name for name in REFERENCES if name.startswith("vscan")])
def test_equals_the_slow_reference(name):
    assert max(REFERENCES[name](seed) for seed in range(6)) < 1e-5


def test_the_published_counts():
    """96 of 576 tokens enter the decoder and 32 its second half: 64 on average."""
    pipeline = Pipeline.build("vscan", 32)
    assert [stage.after_layer for stage in pipeline.stages] == [0, 16]
    assert counts_after(pipeline, (24, 24)) == [96, 32]


def test_a_model_without_a_place_before_its_decoder_is_told_so():
    with pytest.raises(ConfigError, match="before the decoder") as error:
        Pipeline.build("vscan", 32, min_layer=3)
    assert error.value.field == "schedule.depths"


@pytest.mark.parametrize("retention", [0.55, 0.35, 0.1])
def test_both_stages_follow_the_retention(retention):
    first, second = counts_after(Pipeline.build("vscan", 12, retention=retention), (24, 24))
    assert (first + second) / 2 / 576 == pytest.approx(retention, abs=0.002)
