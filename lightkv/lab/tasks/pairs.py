"""Two pictures of digits in a prompt, and questions that compare them, for the second bundled model."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from lightkv.checkpoints.seen import Seen
from lightkv.demo.native import PAIR_KINDS, numbered_pair
from lightkv.demo.scenes import PATCH_SIZE
from lightkv.lab.tasks.digits import Asked, Digits, by_kind


class Pairs(Digits):
    """Two pictures of many sizes, 128 to 288 vision tokens in all: what is in both, what only in the
    second, what has a colour in the second.

    Attributes:
        pairs: how many.
    """

    name: ClassVar[str] = "pairs"
    all_kinds: ClassVar[tuple[str, ...]] = PAIR_KINDS
    batch_size: int = Field(default=16, ge=1)
    pairs: int = Field(default=500, ge=1)

    @property
    def number(self) -> int:
        return self.pairs

    def numbered(self, index: int) -> Asked:
        pair, questions = numbered_pair(index, self.seed, self.split)
        pictures = [pair.first.image, pair.second.image]
        pixels = sum(picture.width * picture.height for picture in pictures)
        return Asked(Seen(pictures), pixels // PATCH_SIZE**2, by_kind(questions))
