"""PyramidDrop: laws, slow reference, published counts."""

import pytest
from references import DIFFERENCES, counts_after

from lightkv.core.errors import ConfigError
from lightkv.core.needs import Need, Source, needs_from
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.testing import OrderFreeSuite


class TestPyramidDrop(OrderFreeSuite):
    preset = "pyramiddrop"


@pytest.mark.parametrize("name", [n for n in DIFFERENCES if n.startswith("pyramiddrop")])
def test_it_agrees_with_the_slow_reference(name):
    assert DIFFERENCES[name]() <= 1e-5


def test_the_published_schedule():
    pipeline = Pipeline.build("pyramiddrop", 32, retention=0.469)
    assert pipeline.schedule.after_layers == (8, 16, 24)
    assert counts_after(pipeline, (24, 24)) == [288, 144, 72]
    assert pipeline.retention == 0.46875


@pytest.mark.parametrize("retention", [0.3, 0.4, 0.55, 0.8])
def test_retention_moves_what_is_kept_and_not_where(retention):
    pipeline = Pipeline.build("pyramiddrop", 32, retention=retention)
    assert pipeline.schedule.after_layers == (8, 16, 24)
    assert pipeline.retention == pytest.approx(retention, abs=0.005)


def test_out_of_reach_names_the_range():
    with pytest.raises(ConfigError, match=r"above 0\.250"):
        Pipeline.build("pyramiddrop", 32, retention=0.2)


def test_it_reads_the_layer_after_the_stage():
    assert needs_from(Pipeline.build("pyramiddrop", 8).stages[0].needs, Source.NEXT_LAYER)
    paper = Pipeline.build("pyramiddrop", 8, scorer="last-token").stages[0]
    assert paper.needs == {Need.LAST_ROW}
    assert Need.NEXT_LAST_ROW not in paper.needs
