"""Prompts of the contract suite: text, images, text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """One prompt: text tokens, images, text tokens. Equal prompts must give equal inputs.

    Attributes:
        before, after: text tokens around the images.
        images: how many.
        seed: of ids and pixels.
    """

    before: int = 3
    images: int = 1
    after: int = 5
    seed: int = 0


MIXED = (Prompt(2, 1, 3, seed=1), Prompt(5, 2, 6, seed=2), Prompt(4, 0, 2, seed=3))
"""Different lengths, different numbers of images, one without."""


PAIR = (Prompt(2, 1, 3, seed=1), Prompt(5, 1, 6, seed=2))
"""An image each and different lengths of text."""
