"""The handwritten digits: real scans (UCI), split once into disjoint train and test scans."""

from __future__ import annotations

import functools
import importlib.resources
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "test"]
SCAN_SIZE = 8
SCAN_MAX = 16
"""Largest ink value of a scan."""


@functools.cache
def load_digits(split: Split) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Scans ``[N, 8, 8]`` (0 to 16) and labels ``[N]`` of one split, as stored."""
    if split not in ("train", "test"):
        raise ValueError(f"split is 'train' or 'test', not {split!r}")
    source = importlib.resources.files("lightkv.demo") / "digits.npz"
    with source.open("rb") as file, np.load(file, allow_pickle=False) as data:
        chosen = data["is_test"] if split == "test" else ~data["is_test"]
        return data["scans"][chosen], data["labels"][chosen]


@functools.cache
def ink(split: Split) -> NDArray[np.float32]:
    """Ink of each scan of a split, ``[N, 8, 8]`` in 0 to 1."""
    return (load_digits(split)[0] / SCAN_MAX).astype(np.float32)


@functools.cache
def scans_of(split: Split) -> tuple[NDArray[np.intp], ...]:
    """For each of the ten digits, the indices of its scans in a split."""
    labels = load_digits(split)[1]
    return tuple(np.flatnonzero(labels == digit) for digit in range(10))


def sample_rng(kind: int, seed: int, index: int, split: Split) -> np.random.Generator:
    """The generator of one sample. `kind` is a number for each sort of samples, clear of training's
    seeds. Samples of training scans differ from those of test scans in more than the handwriting."""
    return np.random.default_rng([kind, seed, index, *([1] if split == "train" else [])])
