"""The geometry of pictures of an unknown model: sizes that fit the placeholders, else strips."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lightkv.adapters.pictures.placing import (
    Picture,
    Pictures,
    PictureView,
    Placeholders,
    placed,
    run_lengths,
)
from lightkv.core.errors import LayoutError

Sizes = Sequence[tuple[int, ...]]
"""Rows of (frames, rows, columns) or (rows, columns)."""


@dataclass(frozen=True)
class Guess:
    """Grids that a modality may have.

    Attributes:
        source: where they come from, for people.
        sizes: of each picture, in tokens.
        sure: whether the model says so itself; else the numbers must fit exactly, beams included.
    """

    source: str
    sizes: Sizes
    sure: bool


def divided(sizes: Sizes, step: int) -> Sizes:
    """Sizes with rows and columns divided; () where they do not divide evenly."""
    if step < 1 or any(size[-1] % step or size[-2] % step for size in sizes):
        return ()
    return [(*size[:-2], size[-2] // step, size[-1] // step) for size in sizes]


def first_fitting(
    modality: str, here: Placeholders, guesses: Iterable[Guess]
) -> tuple[str, Sequence[Picture]] | None:
    """The first guess whose pictures fill the placeholders `[B, N]`, and its source, or None."""
    for guess in guesses:
        pictures = [_plain(size) for size in guess.sizes]
        offered = sum(picture.tokens for picture in pictures)
        if not offered or (not guess.sure and offered != int(here.sum())):
            continue
        try:
            placed(Pictures(modality, here, pictures))
        except LayoutError:
            continue
        return guess.source, pictures
    return None


def _plain(size: tuple[int, ...]) -> Picture:
    frames, rows, columns = size if len(size) == 3 else (1, *size)
    return Picture((PictureView.plain(frames, rows, columns),))


def strips(modality: str, here: Placeholders) -> Sequence[Picture]:
    """A picture of one row for each run of placeholders; sound is a column of frames instead."""
    return [
        Picture((PictureView.plain(*((run, 1, 1) if modality == "audio" else (1, 1, run))),))
        for run in run_lengths(here)
    ]
