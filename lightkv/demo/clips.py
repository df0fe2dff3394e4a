"""Clips of coloured handwritten digits that appear, vanish and move, for the second bundled model.

A clip has 4 to 8 steps of two frames each (a vision token spans both), 6 to 11 rows and columns of
cells of 8 x 8 pixels; a cell at a step becomes one vision token, 144 to 968 in all. A digit is seen in
successive steps, some for a single one, and either stands still or moves by one cell a step: four
pixels from each frame to the next, half a cell before and after the middle of its step. Paths cross,
but no two digits are in one cell at one step. The ground stands still but for a little noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lightkv.demo.digits import Split, sample_rng
from lightkv.demo.scenes import (
    COLOR_WORDS,
    COLORS,
    PALETTE,
    PATCH_SIZE,
    Question,
    color_to_digit_question,
    count_question,
    digit_to_color_question,
    ground,
    pick_scan,
    random_exists,
    stamp,
)

MIN_STEPS, MAX_STEPS, FRAMES_PER_STEP = 4, 8, 2
MIN_SIDE, MAX_SIDE = 6, 11
MAX_DIGITS = 6
MOTIONS: dict[str, tuple[int, int]] = {
    "left": (0, -1),
    "right": (0, 1),
    "up": (-1, 0),
    "down": (1, 0),
}
"""Rows and columns that a digit moves by at each step."""
STILL_SHARE, BRIEF_SHARE = 0.45, 0.4
"""Of digits seen for more than a step, those that stand still; of all, those seen for a single step."""
_FRAME_NOISE = 3
_TRIES = 40

ClipKind = Literal[
    "color_to_digit", "digit_to_color", "exists", "count", "motion", "last", "moment"
]
CLIP_KINDS: tuple[ClipKind, ...] = get_args(ClipKind)


@dataclass(frozen=True)
class ClipDigit:
    """One digit of a clip. `cells` has its (row, column) at each step from `first` on."""

    digit: int
    color: str
    first: int
    cells: tuple[tuple[int, int], ...]
    motion: str | None
    """A key of `MOTIONS`; None if it stands still."""
    scan: int
    """Index of the scan within its split."""

    @property
    def last(self) -> int:
        """The last step that it is seen in."""
        return self.first + len(self.cells) - 1

    def cell(self, step: int) -> tuple[int, int] | None:
        """Where it is at a step; None when it is not seen."""
        return self.cells[step - self.first] if self.first <= step <= self.last else None


@dataclass(frozen=True)
class Clip:
    """Frames ``[2 steps, 8 rows, 8 cols, 3]`` and the digits in them, in order of appearance."""

    frames: NDArray[np.uint8]
    digits: list[ClipDigit]

    @property
    def steps(self) -> int:
        """Steps of two frames each."""
        return len(self.frames) // FRAMES_PER_STEP


def random_path(
    rng: np.random.Generator, steps: int, rows: int, cols: int, still: float, brief_share: float
) -> tuple[int, tuple[tuple[int, int], ...], str | None]:
    """First step, cells from there on and motion of a digit that stays inside the picture."""
    brief = rng.random() < brief_share
    length = 1 if brief else int(rng.integers(2, steps + 1))
    motion = None
    if length > 1 and rng.random() >= still:
        motion = list(MOTIONS)[int(rng.integers(len(MOTIONS)))]
        length = min(length, rows if motion in ("up", "down") else cols)
    down, right = MOTIONS[motion] if motion else (0, 0)
    first = int(rng.integers(0, steps - length + 1))
    row = int(rng.integers(0, rows - abs(down) * (length - 1)))
    col = int(rng.integers(0, cols - abs(right) * (length - 1)))
    row += length - 1 if down < 0 else 0
    col += length - 1 if right < 0 else 0
    return first, tuple((row + down * i, col + right * i) for i in range(length)), motion


def _visits(first: int, cells: Sequence[tuple[int, int]]) -> set[tuple[int, int, int]]:
    return {(first + i, *cell) for i, cell in enumerate(cells)}


def compose_clip(
    rng: np.random.Generator,
    split: Split,
    steps: int,
    rows: int,
    cols: int,
    num_digits: int,
    bank: NDArray[np.float32] | None = None,
    still_share: float = STILL_SHARE,
    brief_share: float = BRIEF_SHARE,
) -> tuple[NDArray[np.uint8], list[ClipDigit]]:
    """Frames and digits of a clip; `bank` as in `scenes.compose`. No two digits meet in a cell."""
    still = ground(rng, rows * PATCH_SIZE, cols * PATCH_SIZE)
    count = steps * FRAMES_PER_STEP
    noise = rng.integers(-_FRAME_NOISE, _FRAME_NOISE + 1, (count, *still.shape[:2], 1), np.int8)
    frames = still + noise.astype(np.float32)
    digits = rng.permutation(10)[:num_digits].tolist()
    colors = rng.permutation(len(COLORS))[:num_digits].tolist()
    taken: set[tuple[int, int, int]] = set()
    placed = []
    for digit, color in zip(digits, colors, strict=True):
        for _ in range(_TRIES):
            first, cells, motion = random_path(rng, steps, rows, cols, still_share, brief_share)
            if not taken & _visits(first, cells):
                break
        else:  # so full that chance finds no place
            continue
        taken |= _visits(first, cells)
        scan, drawn = pick_scan(rng, digit, split, bank)
        placed.append(ClipDigit(digit, COLOR_WORDS[color], first, cells, motion, scan))
        _draw(rng, frames, placed[-1], drawn, PALETTE[color] * rng.uniform(0.9, 1.0))
    placed.sort(key=lambda one: (one.first, one.cells[0]))
    return np.rint(frames.clip(0, 255)).astype(np.uint8), placed


def _draw(
    rng: np.random.Generator,
    frames: NDArray[np.float32],
    one: ClipDigit,
    drawn: NDArray[np.float32],
    shade: NDArray[np.float32],
) -> None:
    """Draw a digit into all frames that it is seen in; half a frame's way off at each."""
    down, right = MOTIONS[one.motion] if one.motion else (0, 0)
    jitter = rng.integers(-1, 2, 2)
    quarter = PATCH_SIZE // 4
    for step, (row, col) in enumerate(one.cells, start=one.first):
        for frame, side in enumerate((-quarter, quarter), start=step * FRAMES_PER_STEP):
            top = row * PATCH_SIZE + int(jitter[0]) + side * down
            left = col * PATCH_SIZE + int(jitter[1]) + side * right
            stamp(frames[frame], drawn, shade, (top, left))


ClipSize = tuple[int, int, int]
"""Steps, rows and columns of a clip."""


def make_clip(
    rng: np.random.Generator,
    split: Split = "test",
    num_digits: int | None = None,
    size: ClipSize | None = None,
) -> Clip:
    """A random clip of 1 to 6 digits (or `num_digits`) drawn from the scans of `split`, of random size
    unless one is given."""
    count = int(rng.integers(1, MAX_DIGITS + 1)) if num_digits is None else num_digits
    if not 1 <= count <= MAX_DIGITS:
        raise ValueError(f"num_digits is 1 to {MAX_DIGITS}, not {count}")
    steps = int(rng.integers(MIN_STEPS, MAX_STEPS + 1))
    rows, cols = (int(side) for side in rng.integers(MIN_SIDE, MAX_SIDE + 1, 2))
    steps, rows, cols = size or (steps, rows, cols)
    return Clip(*compose_clip(rng, split, steps, rows, cols, count))


def motion_question(digits: Sequence[ClipDigit], motion: str) -> Question | None:
    """What digit moves to a side, if exactly one does."""
    movers = [i for i, one in enumerate(digits) if one.motion == motion]
    if len(movers) != 1:
        return None
    text = f"what digit moves {motion} ?"
    return Question("motion", text, str(digits[movers[0]].digit), movers[0], movers[0])


def last_question(digits: Sequence[ClipDigit]) -> Question | None:
    """What digit appeared last, if it was one alone and not at the beginning."""
    latest = max(one.first for one in digits)
    newest = [i for i, one in enumerate(digits) if one.first == latest]
    if len(newest) != 1 or latest == 0:
        return None
    return Question("last", "what digit came last ?", str(digits[newest[0]].digit), newest[0])


def top_at(digits: Sequence[ClipDigit], step: int, without: int) -> int | None:
    """The digit nearest to the upper edge at a step, `without` left out; None unless it is one."""
    rows = [(one.cell(step), i) for i, one in enumerate(digits) if i != without]
    seen = sorted((cell[0], i) for cell, i in rows if cell is not None)
    if not seen or (len(seen) > 1 and seen[0][0] == seen[1][0]):
        return None
    return seen[0][1]


def moment_question(digits: Sequence[ClipDigit], steps: int, index: int) -> Question | None:
    """What other digit was at the top when digit `index` vanished: the same one in the last step with
    it and in the first without it, else the question is not defined."""
    gone = digits[index].last + 1
    if gone >= steps:
        return None
    before, after = top_at(digits, gone - 1, index), top_at(digits, gone, index)
    if before is None or before != after:
        return None
    text = f"what digit was top when {digits[index].color} vanished ?"
    return Question("moment", text, str(digits[before].digit), before, index)


def random_motion(digits: Sequence[ClipDigit], rng: np.random.Generator) -> Question | None:
    """A random defined question about motion, or None where the clip allows none."""
    asked = (motion_question(digits, list(MOTIONS)[i]) for i in rng.permutation(len(MOTIONS)))
    return next((question for question in asked if question is not None), None)


def random_moment(
    digits: Sequence[ClipDigit], steps: int, rng: np.random.Generator
) -> Question | None:
    """A random defined question about the moment a digit vanished, or None."""
    asked = (moment_question(digits, steps, int(i)) for i in rng.permutation(len(digits)))
    return next((question for question in asked if question is not None), None)


def make_clip_questions(
    clip: Clip, rng: np.random.Generator, kinds: Sequence[ClipKind] = CLIP_KINDS
) -> list[Question]:
    """One random question of each kind that is defined for the clip."""
    made = [clip_question(clip.digits, clip.steps, kind, rng) for kind in kinds]
    return [question for question in made if question is not None]


def clip_question(
    digits: Sequence[ClipDigit], steps: int, kind: ClipKind, rng: np.random.Generator
) -> Question | None:
    """A random question of one kind, or None where the clip allows none."""
    index = int(rng.integers(len(digits)))
    if kind == "color_to_digit":
        return color_to_digit_question(digits, index)
    if kind == "digit_to_color":
        return digit_to_color_question(digits, index)
    if kind == "exists":
        return random_exists(digits, rng)
    if kind == "count":
        return count_question(digits)
    if kind == "motion":
        return random_motion(digits, rng)
    if kind == "last":
        return last_question(digits)
    if kind == "moment":
        return random_moment(digits, steps, rng)
    raise ValueError(f"unknown kind of question {kind!r}; known: {', '.join(CLIP_KINDS)}")


def numbered_clip(
    index: int, seed: int = 0, split: Split = "test", size: ClipSize | None = None
) -> tuple[Clip, list[Question]]:
    """Clip number `index` of the scans of `split`, with one question of each kind that is defined for
    it; the same for the same arguments. `size` are its steps, rows and columns; random by default."""
    rng = sample_rng(7937, seed, index, split)
    clip = make_clip(rng, split, size=size)
    return clip, make_clip_questions(clip, rng)


def held_out_clips(n: int, seed: int = 0) -> list[tuple[Clip, list[Question]]]:
    """The first `n` clips made of test scans, as of `numbered_clip`."""
    return [numbered_clip(index, seed) for index in range(n)]


def frames_since(clip: Clip, question: Question) -> int | None:
    """Frames from the last sight of the digit that must be looked at to answer to the end of the clip;
    None where there is no such digit."""
    if question.target is None:
        return None
    return FRAMES_PER_STEP * (clip.steps - 1 - clip.digits[question.target].last)
