"""The methods for video inside a model of multimodal positions: clips of five frames, and of one."""

import pytest
import torch
from rows import VIDEO, grid_rows
from tiny import tiny_qwen2_5_vl

import lightkv
from lightkv.testing import Prompt

PRESETS = ("evs", "dycoke", "framefusion", "fastvid", "holitom")


@pytest.fixture(scope="module")
def model():
    return tiny_qwen2_5_vl("sdpa", torch.float32)


@pytest.mark.parametrize("frames", [1, 5])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_planned_retention_is_met(model, preset, frames):
    """In each layer, for a clip (of one frame too) and for two clips in a prompt."""
    prompts = (Prompt(2, 1, 4, seed=1), Prompt(3, 2, 4, seed=2))
    inputs = grid_rows(prompts, [(frames, 8, 8)] * 3, VIDEO, torch.float32)
    with torch.no_grad(), lightkv.compress(model, preset, retention=0.5) as run:
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
    for sample, clips in zip(run.last.samples, (1, 2), strict=True):
        whole = clips * frames * 16
        assert abs(sample.retention - 0.5) <= clips / whole
        assert sample.vision_tokens[-1] <= whole // 2


def test_windows_over_time_are_a_parameter(model):
    """Of eight frames by fours each window loses half; frame by frame and over the clip alike."""
    inputs = grid_rows((Prompt(2, 1, 4, seed=1),), [(8, 8, 8)], VIDEO, torch.float32)
    four = {"name": "windows", "frames": 4}
    with (
        torch.no_grad(),
        lightkv.compress(model, "lightkv", partitioner=four, retention=0.6) as run,
    ):
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert abs(run.last.retention - 0.6) < 0.03
    assert "frames: 4" in run.pipeline.to_yaml()
