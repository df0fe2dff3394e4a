"""Digit scenes: pictures of coloured handwritten digits, questions about them, and scores.

A scene is 96 x 96 pixels, 12 x 12 patches of 8 x 8. Sixteen slots of 3 x 3 patches hold at most one
digit each, drawn on one patch with a jitter of one pixel, so that what a question asks for lives
on a single vision token. Digits and colours within a scene are distinct. Reading order is by slot
row, then slot column.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lightkv.demo.digits import SCAN_SIZE, Split, ink, sample_rng, scans_of

IMAGE_SIZE = 96
PATCH_SIZE = 8
GRID = IMAGE_SIZE // PATCH_SIZE
SLOTS = 4
PATCHES_PER_SLOT = GRID // SLOTS
MAX_DIGITS = 7
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (235, 35, 35),
    "green": (40, 215, 50),
    "blue": (60, 95, 255),
    "yellow": (250, 235, 40),
    "cyan": (40, 230, 235),
    "pink": (255, 80, 220),
    "orange": (255, 140, 20),
    "white": (255, 255, 255),
}
COLOR_WORDS = tuple(COLORS)
DIGIT_WORDS = tuple(str(digit) for digit in range(10))

Kind = Literal["color_to_digit", "digit_to_color", "exists", "count", "spatial", "list"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PALETTE = np.array(list(COLORS.values()), dtype=np.float32)
_GROUND_POINTS = 6


@dataclass(frozen=True)
class Canvas:
    """How large a picture is and where digits may be: at most one in each slot."""

    rows: int
    cols: int
    """Patches of 8 x 8 pixels."""
    per_slot: int
    """Patches along a side of a slot; what is left at the right and at the bottom stays empty."""

    @property
    def slots(self) -> tuple[int, int]:
        """Rows and columns of slots."""
        return self.rows // self.per_slot, self.cols // self.per_slot


SQUARE = Canvas(GRID, GRID, PATCHES_PER_SLOT)
"""What the first bundled model takes."""


class Colored(Protocol):
    """What questions about a single digit ask of it: a placed one, or one of a clip."""

    @property
    def digit(self) -> int:
        """0 to 9."""

    @property
    def color(self) -> str:
        """A key of `COLORS`."""


@dataclass(frozen=True)
class PlacedDigit:
    """One digit of a scene: where it is and how it looks. ``patch`` and ``slot`` are (row, col)."""

    digit: int
    color: str
    patch: tuple[int, int]
    slot: tuple[int, int]
    box: tuple[int, int, int, int]
    """Pixels: left, top, right, bottom; right and bottom exclusive."""
    scan: int
    """Index of the scan within its split."""


@dataclass(frozen=True)
class Scene:
    """A picture and the digits in it, in reading order."""

    image: Image.Image
    digits: list[PlacedDigit]


@dataclass(frozen=True)
class Question:
    """A question about a scene and its one right answer."""

    kind: str
    """One of `KINDS`, or of those of native pictures, clips or pairs."""
    text: str
    answer: str
    target: int | None
    """Index in ``scene.digits`` of the digit that must be looked at to answer, if there is one."""
    named: int | None = None
    """Index of the digit that the question names; differs from the target in spatial ones."""


@functools.cache
def _stretch(side: int) -> NDArray[np.float32]:
    """Weights ``[side, 6]`` that stretch six points linearly over a picture's side."""
    at = np.linspace(0, _GROUND_POINTS - 1, side)
    weights = 1 - np.abs(at[:, None] - np.arange(_GROUND_POINTS))
    return np.asarray(weights.clip(min=0), dtype=np.float32)


def ground(
    rng: np.random.Generator, height: int = IMAGE_SIZE, width: int = IMAGE_SIZE
) -> NDArray[np.float32]:
    """A muted, slowly varying ground with a little grain: ``[height, width, 3]`` in 0 to 255."""
    base = rng.uniform(30, 95) + rng.uniform(-14, 14, 3)
    points = rng.uniform(-26, 26, (_GROUND_POINTS, _GROUND_POINTS, 1))
    points = (points + rng.uniform(-12, 12, (_GROUND_POINTS, _GROUND_POINTS, 3)) + base).astype("f")
    stretched = np.tensordot(_stretch(height), points, (1, 0))  # [height, 6, 3]
    picture: NDArray[np.float32] = np.matmul(_stretch(width), stretched)  # [height, width, 3]
    grain = rng.integers(-5, 6, (height, width, 1), dtype=np.int8)
    return picture + grain.astype(np.float32)


def paste(
    picture: NDArray[np.float32],
    scan: NDArray[np.float32],
    color: int,
    patch: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[int, int, int, int]:
    """Draw ink `scan` ``[8, 8]`` into `picture` in place, on `patch`, jittered; the box drawn."""
    jitter = rng.integers(-1, 2, 2)
    corner = (patch[0] * PATCH_SIZE + int(jitter[0]), patch[1] * PATCH_SIZE + int(jitter[1]))
    return stamp(picture, scan, PALETTE[color] * rng.uniform(0.9, 1.0), corner)


def stamp(
    picture: NDArray[np.float32],
    scan: NDArray[np.float32],
    shade: NDArray[np.float32],
    corner: tuple[int, int],
) -> tuple[int, int, int, int]:
    """Draw ink `scan` ``[8, 8]`` of colour `shade` ``[3]`` into `picture` in place, its (top, left)
    at `corner` or as near as the picture allows; the box drawn."""
    top = min(max(corner[0], 0), picture.shape[0] - SCAN_SIZE)
    left = min(max(corner[1], 0), picture.shape[1] - SCAN_SIZE)
    area = picture[top : top + SCAN_SIZE, left : left + SCAN_SIZE]
    area += scan[:, :, None] * (shade - area)
    return left, top, left + SCAN_SIZE, top + SCAN_SIZE


def pick_scan(
    rng: np.random.Generator, digit: int, split: Split, bank: NDArray[np.float32] | None = None
) -> tuple[int, NDArray[np.float32]]:
    """A random scan of `digit`: its index within `split`, and its ink ``[8, 8]``, which is taken from
    `bank` ``[copies, N, 8, 8]`` of augmented scans if there is one."""
    members = scans_of(split)[digit]
    scan = int(members[rng.integers(len(members))])
    return scan, ink(split)[scan] if bank is None else bank[rng.integers(len(bank)), scan]


def compose(
    rng: np.random.Generator,
    digits: Sequence[int],
    colors: Sequence[int],
    split: Split,
    bank: NDArray[np.float32] | None = None,
    canvas: Canvas = SQUARE,
) -> tuple[NDArray[np.uint8], list[PlacedDigit]]:
    """A picture ``[8 rows, 8 cols, 3]`` with the given digits and colour indices at random places.

    `bank` ``[copies, N, 8, 8]`` holds augmented train scans to draw from in place of the originals.
    """
    picture = ground(rng, canvas.rows * PATCH_SIZE, canvas.cols * PATCH_SIZE)
    high, wide = canvas.slots
    slots = sorted(rng.choice(high * wide, size=len(digits), replace=False).tolist())
    inside = rng.integers(0, canvas.per_slot, (len(digits), 2)).tolist()
    placed = []
    for digit, color, slot_index, (dy, dx) in zip(digits, colors, slots, inside, strict=True):
        slot = divmod(slot_index, wide)
        patch = (slot[0] * canvas.per_slot + dy, slot[1] * canvas.per_slot + dx)
        scan, drawn = pick_scan(rng, digit, split, bank)
        box = paste(picture, drawn, color, patch, rng)
        placed.append(PlacedDigit(digit, COLOR_WORDS[color], patch, slot, box, scan))
    return np.rint(picture.clip(0, 255)).astype(np.uint8), placed


def compose_scene(
    rng: np.random.Generator,
    split: Split,
    num_digits: int | None = None,
    bank: NDArray[np.float32] | None = None,
    canvas: Canvas = SQUARE,
) -> tuple[NDArray[np.uint8], list[PlacedDigit]]:
    """A picture with distinct random digits and colours; see `compose` and `make_scene`."""
    count = int(rng.integers(1, MAX_DIGITS + 1)) if num_digits is None else num_digits
    if not 1 <= count <= MAX_DIGITS:
        raise ValueError(f"num_digits is 1 to {MAX_DIGITS}, not {count}")
    digits = rng.permutation(10)[:count].tolist()
    colors = rng.permutation(len(COLORS))[:count].tolist()
    return compose(rng, digits, colors, split, bank, canvas)


def make_scene(
    rng: np.random.Generator,
    split: Split = "test",
    num_digits: int | None = None,
    canvas: Canvas = SQUARE,
) -> Scene:
    """A random scene of 1 to 7 digits (or `num_digits`) drawn from the scans of `split`."""
    pixels, placed = compose_scene(rng, split, num_digits, canvas=canvas)
    return Scene(Image.fromarray(pixels), placed)


def neighbour(digits: Sequence[PlacedDigit], index: int, side: str) -> int | None:
    """Index of the nearest digit to the ``"left"`` of `index` in its slot row, or ``"above"`` it
    in its slot column; None where there is none."""
    row, col = digits[index].slot
    best: tuple[int, int] | None = None
    for other, placed in enumerate(digits):
        if side == "left":
            gap = col - placed.slot[1] if placed.slot[0] == row else 0
        else:
            gap = row - placed.slot[0] if placed.slot[1] == col else 0
        if gap > 0 and (best is None or gap < best[0]):
            best = gap, other
    return None if best is None else best[1]


def spatial_question(digits: Sequence[PlacedDigit], side: str, index: int) -> Question | None:
    """What is left of, or above, digit `index`; None where the answer is not defined."""
    target = neighbour(digits, index, side)
    if target is None:
        return None
    where = "left of" if side == "left" else "above"
    text = f"what digit is {where} the {digits[index].color} digit ?"
    return Question("spatial", text, str(digits[target].digit), target, index)


def exists_question(digits: Sequence[Colored], digit: int) -> Question:
    """Is `digit` in the scene?"""
    index = next((i for i, placed in enumerate(digits) if placed.digit == digit), None)
    answer = "no" if index is None else "yes"
    return Question("exists", f"is digit {digit} there ?", answer, index, index)


def color_to_digit_question(digits: Sequence[Colored], index: int) -> Question:
    """What digit has the colour of digit `index`?"""
    placed = digits[index]
    text = f"what digit is {placed.color} ?"
    return Question("color_to_digit", text, str(placed.digit), index, index)


def digit_to_color_question(digits: Sequence[Colored], index: int) -> Question:
    """What colour is digit `index`?"""
    placed = digits[index]
    text = f"what color is {placed.digit} ?"
    return Question("digit_to_color", text, placed.color, index, index)


def count_question(digits: Sequence[Colored]) -> Question:
    """How many digits are there?"""
    return Question("count", "how many digits there ?", str(len(digits)), None)


def list_question(digits: Sequence[PlacedDigit]) -> Question:
    """All digits with their colours, in reading order."""
    answer = " ".join(f"{placed.digit} {placed.color}" for placed in digits)
    return Question("list", "list all digits", answer, None)


def random_exists(digits: Sequence[Colored], rng: np.random.Generator) -> Question:
    """An existence question whose answer is yes or no with equal chance."""
    present = [placed.digit for placed in digits]
    absent = [digit for digit in range(10) if digit not in present]
    return exists_question(digits, int(rng.choice(present if rng.random() < 0.5 else absent)))


def random_spatial(digits: Sequence[PlacedDigit], rng: np.random.Generator) -> Question | None:
    """A random well-defined spatial question, or None where the scene allows none."""
    pairs = [(side, index) for side in ("left", "above") for index in range(len(digits))]
    for pair in rng.permutation(len(pairs)):
        question = spatial_question(digits, *pairs[pair])
        if question is not None:
            return question
    return None


def make_questions(
    scene: Scene, rng: np.random.Generator, kinds: Sequence[Kind] | None = None
) -> list[Question]:
    """One random question of each kind (all by default); a spatial one only where defined."""
    digits, questions = scene.digits, []
    for kind in KINDS if kinds is None else kinds:
        index = int(rng.integers(len(digits)))
        made: Question | None
        if kind == "color_to_digit":
            made = color_to_digit_question(digits, index)
        elif kind == "digit_to_color":
            made = digit_to_color_question(digits, index)
        elif kind == "exists":
            made = random_exists(digits, rng)
        elif kind == "count":
            made = count_question(digits)
        elif kind == "spatial":
            made = random_spatial(digits, rng)
        elif kind == "list":
            made = list_question(digits)
        else:
            raise ValueError(f"unknown kind of question {kind!r}; known: {', '.join(KINDS)}")
        if made is not None:
            questions.append(made)
    return questions


def numbered_scene(
    index: int, seed: int = 0, split: Split = "test"
) -> tuple[Scene, list[Question]]:
    """Scene number `index` of the scans of `split`, with one question of each kind that is defined for
    it; the same for the same arguments."""
    rng = sample_rng(7919, seed, index, split)
    scene = make_scene(rng, split)
    return scene, make_questions(scene, rng)


def held_out_scenes(n: int, seed: int = 0) -> list[tuple[Scene, list[Question]]]:
    """The first `n` scenes of test scans, as of `numbered_scene`: a smaller `n` gives a prefix of a
    larger one."""
    return [numbered_scene(index, seed) for index in range(n)]


def prompt(question_text: str) -> str:
    """The prompt for the processor, as the chat template writes it."""
    return f"user : <image> {question_text} assistant :"


def score(question: Question, text_output: str) -> float:
    """1 or 0 for a short question; for a list the share of right items.

    A right item is a digit with its colour; items count if they stand in the right order (longest
    common subsequence) and the share is of the longer list, so that inventing items costs too.
    """
    words = text_output.split()
    if question.kind != "list":
        return float(words == question.answer.split())
    truth = question.answer.split()
    wanted = list(zip(truth[::2], truth[1::2], strict=True))
    given = list(zip(words[::2], words[1::2], strict=False))
    table = np.zeros((len(wanted) + 1, len(given) + 1), dtype=int)
    for i, item in enumerate(wanted):
        for j, other in enumerate(given):
            hit = table[i, j] + 1 if item == other else 0
            table[i + 1, j + 1] = max(hit, table[i, j + 1], table[i + 1, j])
    return float(table[-1, -1]) / max(len(wanted), len(given), 1)
