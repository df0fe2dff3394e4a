"""PiToMe: laws, slow reference, energies."""

import pytest
import torch
from references import DIFFERENCES

from lightkv import Stage, VisionLayout
from lightkv.core.contracts import StageContext
from lightkv.core.errors import ConfigError
from lightkv.functional import compress_stage
from lightkv.strategies.pitome import Energy
from lightkv.testing import OrderFreeSuite, StrategySuite


class TestPiToMe(OrderFreeSuite):
    preset = "pitome"


class TestPiToMeCode(StrategySuite):
    preset = {
        "partitioner": "windows",
        "scorer": {"name": "energy", "branch": "code", "margin": 0.3, "slope": 0.1, "alpha": 0.5},
        "matcher": {"name": "ranked-bipartite", "metric": "keys"},
        "aggregator": {"name": "weighted-mean", "weights": "size"},
        "schedule": [{"after_layer": 1, "ratio": 0.5, "windows": 2}],
    }


@pytest.mark.parametrize("name", [n for n in DIFFERENCES if n.startswith("pitome")])
def test_it_agrees_with_the_slow_reference(name):
    assert DIFFERENCES[name]() <= 1e-5


def test_the_margin_falls_with_the_depth():
    energy = Energy()
    assert energy.margin_at(StageContext(after_layer=16, num_layers=32)) == pytest.approx(0.45)
    assert energy.margin_at(StageContext()) == 0.9
    assert Energy(margin=0.2, slope=0.9).margin_at(StageContext(8, num_layers=8)) == 0.0


def test_isolated_tokens_are_protected():
    hidden = torch.zeros(1, 9, 8)
    hidden[0, 1:7, 0] = 1.0 + torch.arange(6.0)  # one direction
    hidden[0, 7, 1] = hidden[0, 8, 2] = 1.0  # two that are like nothing else
    layout = VisionLayout.from_spans([[(1, (1, 2, 4))]])
    result = compress_stage(hidden, layout, Stage.preset("pitome", ratio=3 / 8))
    assert result.assignment.survivor.tolist()[-2:] == [6, 7]
    assert result.size.tolist()[-2:] == [1.0, 1.0]


def test_energies_are_over_the_window_alone():
    torch.manual_seed(0)
    hidden = torch.randn(1, 17, 8)
    layout = VisionLayout.from_spans([[(1, (1, 4, 4))]])
    roles = {"partitioner": "windows", "scorer": "energy", "matcher": "top-k"}
    stage = Stage.from_roles({**roles, "aggregator": "drop"}, ratio=0.5, windows=2)
    whole = compress_stage(hidden, layout, stage)
    changed = hidden.clone()
    changed[0, 1:3], changed[0, 5:7] = 5.0, -5.0  # the first window
    other = compress_stage(changed, layout, stage)
    rest = [i for i in range(16) if i not in (0, 1, 4, 5)]
    assert torch.equal(whole.score[rest], other.score[rest])
    assert not torch.equal(whole.score, other.score)


def test_a_stage_removes_at_most_half():
    with pytest.raises(ConfigError, match=r"at most 0\.5"):
        Stage.preset("pitome", ratio=0.6)
