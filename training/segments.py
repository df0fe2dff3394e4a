"""Questions as segments of a training sequence, behind what they are about: shared by both models."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from lightkv.demo.scenes import Question

NO_LABEL = -100


def question_words(question: Question) -> list[str]:
    """The words between the picture and the answer."""
    return [*question.text.split(), "assistant", ":"]


def block_mask(prefix: int, starts: Sequence[int]) -> torch.Tensor:
    """Who sees whom, bool ``[1, 1, L, L]``: the prefix and itself, each causally. Segments begin at
    `starts` behind `prefix` positions; the last of `starts` is the end."""
    segment = torch.full((prefix + starts[-1],), -1)
    for index, (start, end) in enumerate(itertools.pairwise(starts)):
        segment[prefix + start : prefix + end] = index
    same = (segment[:, None] == segment[None, :]) | (segment[None, :] == -1)
    return (same & torch.ones_like(same).tril())[None, None]


def segment_positions(starts: Sequence[int]) -> torch.Tensor:
    """Positions ``[T]`` that begin at 0 in each segment."""
    return torch.cat([torch.arange(end - start) for start, end in itertools.pairwise(starts)])
