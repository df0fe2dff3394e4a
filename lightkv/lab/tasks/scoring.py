"""What an answer is worth against reference answers.

Answers are normalised as the VQA evaluation does it in spirit: lower case, number words as digits,
no punctuation, no articles.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

Measure = Literal["exact", "vqa", "overlap"]
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_ARTICLES = {"a", "an", "the"}
_DIGITS = {word: str(number) for number, word in enumerate(NUMBERS)}
# A point or comma between digits belongs to the number.
_PUNCTUATION = re.compile(r"(?<!\d)[.,](?=\d)|[.,](?!\d)|[^\w\s.,]|_")


def words(text: str) -> list[str]:
    """The normalised words of an answer."""
    # A contraction is one word; any other mark separates.
    text = re.sub(r"(?<=\w)['’](?=\w)", "", text.lower())
    found = [_DIGITS.get(word, word) for word in _PUNCTUATION.sub(" ", text).split()]
    return [word for word in found if word not in _ARTICLES]


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
