"""Pictures of many sizes and shapes, and pairs of them, for the second bundled model.

A picture has 8 to 20 rows and columns of patches of 8 x 8 pixels, 64 to 400 in all, each of which
becomes one vision token. Slots are 2 x 2 patches; digits, colours, questions and their truth are those
of `scenes`. A pair is two such pictures of at most 144 patches each, and its questions compare them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lightkv.demo.digits import Split, sample_rng
from lightkv.demo.scenes import (
    COLORS,
    Canvas,
    PlacedDigit,
    Question,
    Scene,
    compose,
    make_questions,
    make_scene,
)

MIN_SIDE, MAX_SIDE, MAX_PATCHES = 8, 20, 400
PATCHES_PER_SLOT = 2
MAX_PAIR_SIDE, MAX_PAIR_DIGITS = 12, 5
"""Of each picture of a pair."""

PairKind = Literal["both", "only_second", "second_color"]
PAIR_KINDS: tuple[PairKind, ...] = get_args(PairKind)


@dataclass(frozen=True)
class Pair:
    """Two pictures in a prompt. Indices of questions count the digits of both, the first's first."""

    first: Scene
    second: Scene

    @property
    def digits(self) -> list[PlacedDigit]:
        """The digits of both pictures, in order."""
        return [*self.first.digits, *self.second.digits]


def random_canvas(rng: np.random.Generator, max_side: int = MAX_SIDE) -> Canvas:
    """A random size and shape of at most `MAX_PATCHES` patches."""
    rows, cols = (int(side) for side in rng.integers(MIN_SIDE, max_side + 1, 2))
    return Canvas(rows, min(cols, MAX_PATCHES // rows), PATCHES_PER_SLOT)


def pair_digits(
    rng: np.random.Generator, most: int = MAX_PAIR_DIGITS
) -> tuple[list[int], list[int]]:
    """Digits of the two pictures of a pair, 1 to `most` each, in random order. In half of the pairs
    exactly one is in both, in the others exactly one is only in the second, so that each question has
    one answer."""
    order = rng.permutation(10).tolist()
    if rng.random() < 0.5:
        first, second = (int(n) for n in rng.integers(1, most, 2))
        shared, firsts, seconds = order[:1], order[1 : 1 + first], order[1 + first :][:second]
    else:
        common = int(rng.integers(1, most))
        rest = int(rng.integers(0, most - common + 1))
        shared, seconds = order[:common], order[common : common + 1]
        firsts = order[common + 1 :][:rest]
    left, right = shared + firsts, shared + seconds
    return [left[i] for i in rng.permutation(len(left))], [
        right[i] for i in rng.permutation(len(right))
    ]


def compose_pair(
    rng: np.random.Generator,
    split: Split,
    canvases: tuple[Canvas, Canvas],
    bank: NDArray[np.float32] | None = None,
    most: int = MAX_PAIR_DIGITS,
) -> list[tuple[NDArray[np.uint8], list[PlacedDigit]]]:
    """Two pictures with the digits of `pair_digits`, each as of `scenes.compose`."""
    made = []
    for digits, canvas in zip(pair_digits(rng, most), canvases, strict=True):
        colors = rng.permutation(len(COLORS))[: len(digits)].tolist()
        made.append(compose(rng, digits, colors, split, bank, canvas))
    return made


def make_pair(rng: np.random.Generator, split: Split = "test") -> Pair:
    """A random pair drawn from the scans of `split`."""
    canvases = random_canvas(rng, MAX_PAIR_SIDE), random_canvas(rng, MAX_PAIR_SIDE)
    first, second = (
        Scene(Image.fromarray(pixels), placed)
        for pixels, placed in compose_pair(rng, split, canvases)
    )
    return Pair(first, second)


def both_question(first: Sequence[PlacedDigit], second: Sequence[PlacedDigit]) -> Question | None:
    """The digit that is in both pictures, if it is one."""
    there = {placed.digit for placed in first}
    shared = [i for i, placed in enumerate(second) if placed.digit in there]
    if len(shared) != 1:
        return None
    answer = str(second[shared[0]].digit)
    return Question("both", "what digit is in both ?", answer, len(first) + shared[0])


def only_second_question(
    first: Sequence[PlacedDigit], second: Sequence[PlacedDigit]
) -> Question | None:
    """The digit that is in the second picture and not in the first, if it is one."""
    there = {placed.digit for placed in first}
    new = [i for i, placed in enumerate(second) if placed.digit not in there]
    if len(new) != 1:
        return None
    text = "what digit is only in the second ?"
    return Question("only_second", text, str(second[new[0]].digit), len(first) + new[0])


def second_color_question(
    first: Sequence[PlacedDigit], second: Sequence[PlacedDigit], rng: np.random.Generator
) -> Question:
    """What digit has a colour in the second picture; a colour that the first has, too, if any."""
    there = {placed.color for placed in first}
    twice = [i for i, placed in enumerate(second) if placed.color in there]
    index = int(rng.choice(twice if twice else len(second)))
    text = f"what digit is {second[index].color} in the second ?"
    here = len(first) + index
    return Question("second_color", text, str(second[index].digit), here, here)


def pair_questions(
    first: Sequence[PlacedDigit], second: Sequence[PlacedDigit], rng: np.random.Generator
) -> list[Question]:
    """One question of each kind that is defined for a pair."""
    made = (
        both_question(first, second),
        only_second_question(first, second),
        second_color_question(first, second, rng),
    )
    return [question for question in made if question is not None]


def numbered_picture(
    index: int, seed: int = 0, split: Split = "test", size: tuple[int, int] | None = None
) -> tuple[Scene, list[Question]]:
    """Picture number `index` of the scans of `split`, with one question of each kind of `scenes.KINDS`
    that is defined for it; the same for the same arguments.

    `size` are its rows and columns of vision tokens; of random size and shape by default.
    """
    rng = sample_rng(7927, seed, index, split)
    canvas = random_canvas(rng)  # drawn in any case, so that digits are the same at every size
    if size is not None:
        canvas = Canvas(*size, PATCHES_PER_SLOT)
    scene = make_scene(rng, split, canvas=canvas)
    return scene, make_questions(scene, rng)


def held_out_pictures(n: int, seed: int = 0) -> list[tuple[Scene, list[Question]]]:
    """The first `n` pictures of many sizes made of test scans, as of `numbered_picture`."""
    return [numbered_picture(index, seed) for index in range(n)]


def numbered_pair(index: int, seed: int = 0, split: Split = "test") -> tuple[Pair, list[Question]]:
    """Pair number `index` of the scans of `split`, with its questions; the same for the same
    arguments."""
    rng = sample_rng(7933, seed, index, split)
    pair = make_pair(rng, split)
    return pair, pair_questions(pair.first.digits, pair.second.digits, rng)


def held_out_pairs(n: int, seed: int = 0) -> list[tuple[Pair, list[Question]]]:
    """The first `n` pairs made of test scans, as of `numbered_pair`."""
    return [numbered_pair(index, seed) for index in range(n)]
