"""The contract of MiniCPM-V 4.6, pictures and clips."""

import torch
from hybrids import check_laws
from minicpm import IMAGE, VIDEO, MiniCPM
from transformers import MiniCPMV4_6Config, MiniCPMV4_6ForConditionalGeneration

from lightkv.adapters.families.minicpm import MiniCPMAdapter
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.testing import AdapterSuite, Prompt


class MiniCPM46(MiniCPM):
    config, model = MiniCPMV4_6Config, MiniCPMV4_6ForConditionalGeneration


class TestMiniCPM46(MiniCPM46, AdapterSuite):
    pass


class FourTimes(MiniCPM46):
    """Four times as many tokens: 2 × 2 patches are one."""

    extra, side = {"downsample_mode": "4x"}, 2
    grids = [(1, 8, 12), (1, 8, 8), (1, 16, 18)]


def test_layout_truth_of_four_times_as_many_tokens():
    FourTimes().test_layout_truth()


class Clips(MiniCPM46):
    """Clips of two frames, as the processor writes them: one after the other, without time stamps."""

    kind, pictures = "video", [((16, 16), None)]

    def block(self, picture):
        return super().block(picture) * 2

    def crops(self, picture):
        return super().crops(picture) * 2


def test_clips_obey_the_law():
    check_laws(Clips())


def views_of(suite, prompt):
    model = suite.make_model()
    inputs = read_inputs(model.model, (), suite.make_inputs(model, [prompt]))
    return MiniCPMAdapter().layout(model, inputs).samples[0].views


def test_frames_of_a_clip_are_one_view():
    views = views_of(Clips(), Prompt(2, 2, 3))
    assert [view.grid for view in views] == [(2, 4, 4)] * 2
    assert [view.image for view in views] == [0, 1]


def test_sliced_frames_are_pictures_of_their_own():
    suite = Clips()
    suite.pictures = [((16, 16), (1, 2, (16, 12)))]
    views = views_of(suite, Prompt(2, 1, 3))
    assert [view.grid for view in views] == [(1, 4, 4), (1, 4, 6)] * 2
    assert [view.image for view in views] == [0, 0, 1, 1]


def test_slices_that_differ_are_views_of_their_own():
    """MiniCPM-OCR may resize each slice by what stands on it."""
    suite = MiniCPM46()
    model = suite.make_model()
    ids = [9, 7, *[IMAGE] * 4, 8, 14, *[IMAGE] * 4, 15, 14, *[IMAGE] * 2, 15, 9]
    inputs = {
        "input_ids": torch.tensor([ids]),
        "pixel_values": torch.randn(1, 3, 4, 4 * (64 + 64 + 32)),
        "target_sizes": torch.tensor([[8, 8], [8, 8], [4, 8]]),
    }
    layout = MiniCPMAdapter().layout(model, read_inputs(model.model, (), inputs))
    views = layout.samples[0].views
    assert [view.grid for view in views] == [(1, 2, 2), (1, 2, 2), (1, 1, 2)]
    assert VIDEO not in ids
