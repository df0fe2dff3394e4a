"""Clips: the frames show what the digits say, and the questions ask what the frames show."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from lightkv.demo.clips import (
    CLIP_KINDS,
    FRAMES_PER_STEP,
    MAX_DIGITS,
    MAX_SIDE,
    MAX_STEPS,
    MIN_STEPS,
    MOTIONS,
    clip_question,
    held_out_clips,
    make_clip,
    make_clip_questions,
)
from lightkv.demo.scenes import COLORS, DIGIT_WORDS

SAMPLES = held_out_clips(250, seed=5)


def seen_at(clip, step):
    """Cells of digits that are seen at a step, written down again from the paths."""
    shown = {}
    for one in clip.digits:
        for later, cell in enumerate(one.cells):
            if one.first + later == step:
                assert cell not in shown.values()
                shown[one.digit] = cell
    return shown


def color_share(pixels, color):
    """Share of pixels that are nearer to a colour than to dark ground and other colours."""
    names = [*COLORS, "ground"]
    table = np.array([*COLORS.values(), (60, 60, 60)], dtype=float)
    nearest = ((pixels[..., None, :].astype(float) - table) ** 2).sum(-1).argmin(-1)
    return float((nearest == names.index(color)).mean())


def test_clips_are_of_the_promised_sizes_and_the_same_for_the_same_seed():
    for clip, _ in SAMPLES:
        assert MIN_STEPS <= clip.steps <= MAX_STEPS
        assert clip.frames.shape[0] == FRAMES_PER_STEP * clip.steps
        rows, cols = clip.frames.shape[1] // 8, clip.frames.shape[2] // 8
        assert 144 <= clip.steps * rows * cols <= MAX_STEPS * MAX_SIDE**2 < 1000
        assert 1 <= len(clip.digits) <= MAX_DIGITS
        assert len({one.digit for one in clip.digits}) == len(clip.digits)
        assert len({one.color for one in clip.digits}) == len(clip.digits)
        for step in range(clip.steps):
            for row, col in seen_at(clip, step).values():
                assert 0 <= row < rows
                assert 0 <= col < cols
    again = held_out_clips(2, seed=5)
    for (clip, asked), (other, asked_again) in zip(SAMPLES, again, strict=False):
        assert np.array_equal(clip.frames, other.frames)
        assert clip.digits == other.digits
        assert asked == asked_again
    assert not np.array_equal(held_out_clips(1, seed=6)[0][0].frames, again[0][0].frames)


def test_a_digit_shows_its_color_in_its_cell_while_it_is_there_and_not_elsewhere():
    for clip, _ in SAMPLES[:40]:
        for one in clip.digits:
            for step in range(clip.steps):
                pair = clip.frames[FRAMES_PER_STEP * step : FRAMES_PER_STEP * (step + 1)]
                cell = one.cell(step)
                if cell is None:
                    assert color_share(pair, one.color) < 0.004
                else:
                    row, col = cell[0] * 8, cell[1] * 8
                    inside = pair[:, row : row + 8, col : col + 8]
                    assert color_share(inside, one.color) > 0.05


def test_moving_digits_move_four_pixels_from_frame_to_frame():
    for name, (down, right) in MOTIONS.items():
        clip = next(c for c, _ in SAMPLES if [one.motion for one in c.digits] == [name])
        one = clip.digits[0]
        assert all(
            np.subtract(later, cell).tolist() == [down, right]
            for cell, later in zip(one.cells, one.cells[1:], strict=False)
        )
        # The shade of one digit alone: the middle of what a frame has and the ground has not.
        ground = np.median(clip.frames, 0)
        ink = np.abs(clip.frames.astype(float) - ground).sum(-1)
        frames = range(FRAMES_PER_STEP * one.first, FRAMES_PER_STEP * (one.last + 1))
        middles = []
        for frame in frames:
            strong = np.argwhere(ink[frame] > 90)
            middles.append(strong.mean(0))
        way = (middles[-1] - middles[0]) / (len(middles) - 1)
        assert way == pytest.approx([4 * down, 4 * right], abs=1.2)


def answer_again(clip, question):
    """The answer, from what is seen at each step, in plain loops."""
    by_color = {one.color: one.digit for one in clip.digits}
    steps = [seen_at(clip, step) for step in range(clip.steps)]
    words = question.text.split()
    everything = {digit for shown in steps for digit in shown}
    if question.kind == "count":
        return {str(len(everything))}
    if question.kind == "exists":
        return {"yes" if int(words[2]) in everything else "no"}
    if question.kind == "color_to_digit":
        return {str(by_color[words[3]])}
    if question.kind == "digit_to_color":
        return {color for color, digit in by_color.items() if digit == int(words[3])}
    if question.kind == "last":
        firsts = {}
        for step, shown in enumerate(steps):
            for digit in shown:
                firsts.setdefault(digit, step)
        return {str(digit) for digit, step in firsts.items() if step == max(firsts.values())}
    if question.kind == "motion":
        moved = set()
        for before, after in itertools.pairwise(steps):
            for digit in before.keys() & after.keys():
                way = tuple(np.subtract(after[digit], before[digit]).tolist())
                if way == MOTIONS[words[3]]:
                    moved.add(str(digit))
        return moved
    named = by_color[words[5]]
    gone = max(step for step, shown in enumerate(steps) if named in shown) + 1
    tops = set()
    for shown in (steps[gone - 1], steps[gone]):
        others = {digit: cell[0] for digit, cell in shown.items() if digit != named}
        tops |= {str(digit) for digit, row in others.items() if row == min(others.values())}
    return tops


def test_answers_are_those_of_the_steps():
    asked = Counter()
    for clip, questions in SAMPLES:
        assert {q.kind for q in questions} >= {
            "color_to_digit",
            "digit_to_color",
            "exists",
            "count",
        }
        for question in questions:
            assert {question.answer} == answer_again(clip, question), question
            asked[question.kind] += 1
            if question.target is not None and question.answer in DIGIT_WORDS:
                assert str(clip.digits[question.target].digit) == question.answer
    assert set(asked) == set(CLIP_KINDS)
    assert min(asked.values()) > 100  # each kind is defined for two clips of five, or more


def test_no_answer_is_likely_before_the_clip_is_seen():
    for kind in CLIP_KINDS:
        answers = Counter(q.answer for _, qs in SAMPLES for q in qs if q.kind == kind)
        share = max(answers.values()) / sum(answers.values())
        likely = {"exists": 0.5, "count": 1 / MAX_DIGITS, "digit_to_color": 1 / len(COLORS)}
        assert share < likely.get(kind, 0.1) + 0.12, kind


def test_wrong_numbers_and_kinds_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="1 to 6"):
        make_clip(rng, num_digits=7)
    clip = make_clip(rng, num_digits=2)
    assert [q.kind for q in make_clip_questions(clip, rng, ("count",))] == ["count"]
    with pytest.raises(ValueError, match="known: color_to_digit"):
        clip_question(clip.digits, clip.steps, "colour", rng)
