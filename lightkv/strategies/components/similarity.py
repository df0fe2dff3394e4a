"""Cosine similarity of vectors of any magnitude, in blocks of a bounded size."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lightkv.strategies.components.magnitude import CHUNK, TINY, scale_of

Size = tuple[torch.Tensor, torch.Tensor]
"""Scale and length of vectors, see `size_of`."""
SIMILARITY_ELEMENTS = 2**22
"""Similarities formed at once; windows of many thousand tokens are compared in runs of sources."""
EXCLUDED = 4.0
"""Taken off the cosine of a pair that is not to match: more than cosines differ by."""


def most_similar(
    sources: torch.Tensor, destinations: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and index `[G, a]` of the most similar of `[G, b, D]` for each of `[G, a, D]`."""
    parts = [near.max(dim=-1) for _, near in cosine_runs(sources, destinations)]
    return torch.cat([p.values for p in parts], 1), torch.cat([p.indices for p in parts], 1)


def cosine_runs(left: torch.Tensor, right: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Runs of the rows of `left` `[G, a, D]`, and the cosine `[G, run, b]` of each with `right`."""
    groups, count, _ = right.shape
    step = max(1, SIMILARITY_ELEMENTS // max(1, groups * count))
    known = size_of(right) if step < left.shape[1] else None
    for first in range(0, left.shape[1], step):
        rows = slice(first, first + step)
        yield rows, cosine(left[:, rows], right, known)


def cosine(left: torch.Tensor, right: torch.Tensor, right_size: Size | None = None) -> torch.Tensor:
    """`[G, a, b]` cosine of `[G, a, D]` with `[G, b, D]` in float32, in blocks of columns.

    A vector's magnitude does not matter, however large or small it is; with a vector of zeros the
    cosine is 0. `right_size` saves measuring `right` anew where it meets several `left`.
    """
    dot = left_squares = right_squares = left.new_zeros(1, dtype=torch.float32)
    left_scale = scale_of(left)
    right_scale, right_norm = right_size or (scale_of(right), None)
    for first in range(0, left.shape[-1], CHUNK):
        a, b = _near_one(left, left_scale, first), _near_one(right, right_scale, first)
        dot = dot + torch.matmul(a, b.transpose(1, 2))
        left_squares = left_squares + _squares(a)
        if right_norm is None:
            right_squares = right_squares + _squares(b)
    right_norm = right_squares.sqrt() if right_norm is None else right_norm
    return dot / (left_squares.sqrt().unsqueeze(2) * right_norm.unsqueeze(1)).clamp(min=TINY)


def size_of(vectors: torch.Tensor) -> Size:
    """The scale `[G, n, 1]` that brings each of `[G, n, D]` near 1, and its length `[G, n]` there."""
    scale = scale_of(vectors)
    squares = vectors.new_zeros(1, dtype=torch.float32)
    for first in range(0, vectors.shape[-1], CHUNK):
        squares = squares + _squares(_near_one(vectors, scale, first))
    return scale, squares.sqrt()


def _near_one(vectors: torch.Tensor, scale: torch.Tensor, first: int) -> torch.Tensor:
    """A block of columns in float32. Converted first: a product of mixed dtypes takes longer."""
    block = vectors[..., first : first + CHUNK]
    return block * scale if block.dtype == torch.float32 else block.float().mul_(scale)


def _squares(block: torch.Tensor) -> torch.Tensor:
    """`[G, n]` sum of the squares of `[G, n, D]`, without a tensor of squares."""
    norm: torch.Tensor = torch.linalg.vector_norm(block, dim=-1)
    return norm.square()
