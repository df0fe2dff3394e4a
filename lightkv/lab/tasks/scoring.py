"""What an answer is worth against reference answers.

Answers are normalised as the VQA evaluation does it in spirit: lower case, number words as digits,
no punctuation, no articles. What carries the meaning stays: a sign before a number, the marks that
scripts such as Devanagari and Thai write vowels with, and an answer of which nothing else is left.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Literal

Measure = Literal["exact", "vqa", "overlap"]
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_ARTICLES = {"a", "an", "the"}
_DIGITS = {word: str(number) for number, word in enumerate(NUMBERS)}
_MINUS = str.maketrans("\u2212", "-")
# A sign or point that begins a number belongs to it, as does a point or comma between digits.
_IN_NUMBERS = re.compile(r"((?<!\S)[+-]?\.?(?=\d)|(?<=\d)[.,](?=\d))|[.,+-]")


def words(text: str) -> list[str]:
    """The normalised words of an answer; empty only if the answer is."""
    whole = unicodedata.normalize("NFC", text).strip().casefold()
    # A contraction is one word; any other mark separates.
    joined = re.sub(r"(?<=\w)['’](?=\w)", "", whole.translate(_MINUS))
    spaced = "".join(char if _kept(char) else " " for char in joined)
    spaced = _IN_NUMBERS.sub(lambda found: " " if found[1] is None else found[1], spaced)
    found = [_DIGITS.get(word, word) for word in spaced.split()]
    # "A" is a choice as often as an article, and "+" an answer: they must not equal everything else
    # of which nothing is left.
    return [word for word in found if word not in _ARTICLES] or found or whole.split()


def _kept(char: str) -> bool:
    """Letters and digits, marks upon them, and what may belong to a number."""
    return char.isalnum() or char in ".,+-" or unicodedata.category(char).startswith("M")


def exact(answer: str, references: Sequence[str]) -> float:
    """1 if the answer equals any reference after normalisation, else 0."""
    given = words(answer)
    return float(any(given == words(reference) for reference in references))


def vqa(answer: str, references: Sequence[str]) -> float:
    """Share of agreement with several people: the mean of min(matches / 3, 1) over all choices of
    all references but one (Antol et al., ICCV 2015); `exact` with a single reference."""
    if len(references) < 2:
        return exact(answer, references)
    given = words(answer)
    hits = [given == words(reference) for reference in references]
    total = sum(hits)
    return sum(min((total - hit) / min(3, len(hits) - 1), 1.0) for hit in hits) / len(hits)


def overlap(answer: str, references: Sequence[str]) -> float:
    """Best F1 of the longest common subsequence of words (ROUGE-L, Lin 2004, with β = 1)."""
    return max((_overlap(words(answer), words(reference)) for reference in references), default=0.0)


def _overlap(one: list[str], other: list[str]) -> float:
    if not one or not other:
        return float(one == other)
    row = [0] * (len(other) + 1)
    for word in one:
        corner = 0
        for place, against in enumerate(other, start=1):
            above = row[place]
            row[place] = corner + 1 if word == against else max(above, row[place - 1])
            corner = above
    return 2.0 * row[-1] / (len(one) + len(other))


MEASURES: dict[str, Callable[[str, Sequence[str]], float]] = {
    "exact": exact,
    "vqa": vqa,
    "overlap": overlap,
}
