"""Clips of digits that appear, vanish and move, for the second bundled model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from lightkv.checkpoints.seen import Seen
from lightkv.demo.clips import (
    CLIP_KINDS,
    MAX_SIDE,
    MAX_STEPS,
    MIN_SIDE,
    MIN_STEPS,
    ClipSize,
    frames_since,
    numbered_clip,
)
from lightkv.demo.digits import Split
from lightkv.demo.scenes import PATCH_SIZE
from lightkv.lab.outcomes import Sample
from lightkv.lab.tasks.digits import Asked, Digits, by_kind


class Clips(Digits):
    """Clips of 8 to 16 frames, 144 to 968 vision tokens: questions that one frame answers, and some that
    need time.

    Attributes:
        clips: how many.
        steps, rows, columns: of vision tokens, all or none: clips of one size, so that a grid can
            compare sizes. A step is two frames.
        by: what outcomes are told apart by. `kind`: kinds of question. `time`: frames between the last
            sight of the digit that must be looked at and the end of the clip, where the question stands;
            questions about no single digit are left out.
    """

    name: ClassVar[str] = "clips"
    all_kinds: ClassVar[tuple[str, ...]] = CLIP_KINDS
    batch_size: int = Field(default=8, ge=1)
    clips: int = Field(default=500, ge=1)
    steps: int | None = Field(default=None, ge=MIN_STEPS, le=MAX_STEPS)
    rows: int | None = Field(default=None, ge=MIN_SIDE, le=MAX_SIDE)
    columns: int | None = Field(default=None, ge=MIN_SIDE, le=MAX_SIDE)
    by: Literal["kind", "time"] = "kind"

    @model_validator(mode="after")
    def _one_size(self) -> Clips:
        if len({side is None for side in (self.steps, self.rows, self.columns)}) > 1:
            raise ValueError("a size has steps, rows and columns; give all or none")
        return self

    @property
    def number(self) -> int:
        return self.clips

    def batches(self, samples: Sequence[Sample]) -> Iterator[list[Sample]]:
        """Prompts of one length together, whatever they ask: nothing is padded. Padding needs masks, and
        those of hundreds of tokens cost layers this small as much as what they compute."""
        like: dict[int, list[Sample]] = {}
        for sample in samples:
            like.setdefault(sample.tokens + len(sample.question.split()), []).append(sample)
        for length in sorted(like):
            for start in range(0, len(like[length]), self.batch_size):
                yield like[length][start : start + self.batch_size]

    def numbered(self, index: int) -> Asked:
        size = None
        if self.steps and self.rows and self.columns:
            size = self.steps, self.rows, self.columns
        clip, questions = numbered_clip(index, self.seed, self.split, size)
        frames = clip.frames.shape
        tokens = clip.steps * frames[1] * frames[2] // PATCH_SIZE**2
        told = by_kind(questions)
        if self.by == "time":
            since = ((frames_since(clip, question), question) for question in questions)
            told = [(f"{n:02} frames before the end", q) for n, q in since if n is not None]
        # Frames weigh much: they are made again when they are asked about.
        return Asked(partial(_seen, index, self.seed, self.split, size), tokens, told)


def _seen(index: int, seed: int, split: Split, size: ClipSize | None) -> Seen:
    return Seen(clips=[numbered_clip(index, seed, split, size)[0].frames])
