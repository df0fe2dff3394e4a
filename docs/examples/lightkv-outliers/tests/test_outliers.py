import torch

from lightkv import Stage, VisionLayout
from lightkv.functional import compress_stage
from lightkv.testing import StrategySuite


class TestOutliers(StrategySuite):
    preset = "outliers"


def test_the_odd_token_survives_alone():
    hidden = torch.zeros(1, 6, 4)
    hidden[0, 3] = 1.0
    layout = VisionLayout.from_spans([[(0, (1, 1, 4))]])
    stage = Stage.preset("outliers", ratio=0.5, windows=1)
    result = compress_stage(hidden, layout, stage)
    assert result.size.tolist() == [3.0, 1.0]
    assert result.assignment.survivor[1] == 3
