"""What clips must not break: one frame, odd sizes, too many tokens, pictures beside them, no change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lightkv.checkpoints.clip_processor import make_processor
from lightkv.checkpoints.positions import most_positions
from lightkv.checkpoints.prompts import batch_inputs, build_inputs
from lightkv.checkpoints.seen import Seen
from lightkv.core.errors import ModelError
from lightkv.demo.clips import numbered_clip
from lightkv.lab.subject import Subject
from lightkv.strategies import METHODS, _modules
from training.video.architecture import MAX_LENGTH, make_model, make_pictures, make_tokenizer

FRAMES = numbered_clip(0, 3, size=(4, 6, 6))[0].frames
PRESETS = [
    preset.name
    for module in _modules(METHODS)
    for preset in getattr(module, "PRESETS", None) or (module.PRESET,)
]
NEED_A_CLASS_TOKEN = [
    "hired",
    "visionzip",
    "prumerge",
    "prumerge-plus",
    "vispruner",
    "fastervlm",
    "hiprune",
    "vscan",
]


@pytest.fixture(scope="module")
def subject():
    torch.manual_seed(0)
    return Subject(make_model(4).eval(), make_processor(make_pictures(), make_tokenizer()))


def inputs_of(subject, *seen):
    questions = ["what digit is red ?"] * len(seen)
    return batch_inputs(subject.processor, questions, seen, subject.model)


def logits(subject, *seen):
    inputs = inputs_of(subject, *seen)
    with torch.no_grad():
        return subject.model(**inputs).logits


def used(subject, preset, retention, *seen):
    """What a session says of a pass over what is seen, all of whose logits are numbers."""
    with subject.compressed(preset, retention) as session:
        assert logits(subject, *seen).isfinite().all(), preset
        return session.last.samples


@pytest.mark.parametrize("preset", ["lightkv", "framefusion", "evs"])
@pytest.mark.parametrize(
    "shape",
    [
        (1, 48, 48),  # one frame counts twice
        (3, 50, 71),
        (2, 9, 160),  # so small that the processor makes it larger
        (2, 400, 30),
    ],
    ids=str,
)
def test_clips_of_one_frame_and_of_odd_sizes(subject, preset, shape):
    clip = np.random.default_rng(1).integers(0, 255, (*shape, 3), dtype=np.uint8)
    (found,) = used(subject, preset, 0.6, Seen(clips=[clip]))
    steps, rows, columns = inputs_of(subject, Seen(clips=[clip]))["video_grid_thw"][0].tolist()
    assert steps == (shape[0] + 1) // 2
    assert found.original == steps * rows * columns / 4
    assert found.retention == pytest.approx(0.6, abs=0.1)


def test_a_clip_longer_than_the_positions_is_refused(subject):
    clip = np.zeros((2 * 18, 88, 88, 3), np.uint8)  # 18 x 121 tokens
    assert most_positions(subject.model.config) == MAX_LENGTH
    for ask in (
        lambda: build_inputs(subject.processor, "?", [], subject.model, [clip]),
        lambda: batch_inputs(subject.processor, ["?"], [Seen(clips=[clip])], subject.model),
    ):
        with pytest.raises(
            ModelError, match=r"21\d\d tokens.*positions for 2048.*fewer or smaller"
        ):
            ask()


def test_scaled_positions_reach_farther_than_they_say(subject):
    config = make_model(1).config
    config.text_config.rope_parameters = {"rope_type": "yarn", "factor": 4.0}
    assert most_positions(config) is None
    config.text_config.rope_parameters = {"full": {"rope_type": "default"}, "sliding": {}}
    assert most_positions(config) == MAX_LENGTH


def test_a_picture_beside_a_clip_and_a_clip_beside_a_picture(subject):
    picture = Image.new("RGB", (64, 72), (90, 20, 160))
    both, alone = Seen([picture], [FRAMES]), Seen([picture, picture])
    together = logits(subject, both, alone)
    for row, seen in enumerate((both, alone)):
        single = logits(subject, seen)
        torch.testing.assert_close(together[row, -1:], single[0, -1:], atol=3e-5, rtol=0)
    first, second = used(subject, "lightkv", 0.6, both, alone)
    assert (first.original, second.original) == (4 * 36 + 72, 2 * 72)
    for row in (first, second):
        assert row.retention == pytest.approx(0.6, abs=0.06)


@pytest.mark.parametrize("preset", PRESETS)
def test_frames_that_are_all_alike_keep_the_budget(subject, preset):
    """As many tokens in each layer as of a clip that moves, and no NaN."""
    clips = FRAMES, np.repeat(FRAMES[:1], 8, 0), np.zeros_like(FRAMES)
    seen = [Seen(clips=[clip]) for clip in clips]
    if preset in NEED_A_CLASS_TOKEN:
        with pytest.raises(ModelError, match="no class token"):
            used(subject, preset, 0.6, *seen)
        return
    moving, *alike = used(subject, preset, 0.6, *seen)
    assert moving.retention <= 0.67  # windows of nine tokens round
    assert [row.vision_tokens for row in alike] == [moving.vision_tokens] * 2
