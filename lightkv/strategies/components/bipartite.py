"""Bipartite matching of alternating tokens, shared by LightKV and ToMe.

Sources A are the even places of a window, destinations B the odd ones. Each source proposes its
most similar destination; the r best proposals are merged, several may share a destination.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch

from lightkv.core.attention import AttentionView
from lightkv.core.contracts import Matcher, MatchInput
from lightkv.core.errors import ConfigError
from lightkv.core.needs import Need, Needs
from lightkv.strategies.components.common import CHUNK
from lightkv.strategies.components.magnitude import TINY, scale_of


class Bipartite(Matcher):
    """Merges the r = min(⌊ρ·n⌋, ⌊n/2⌋) even tokens whose nearest odd token diverges least.

    Feature divergence FD(α, β) = 1 − cos(x_α, x_β), so the smallest divergence is the largest
    cosine. Lower index wins among equals.

    Attributes:
        metric: `hidden` (features of the stage's tokens) or `keys` (keys of the layer before the
            stage, mean over heads).
        single_precision_ratio: compute ⌊ρ·n⌋ in float32 as the authors' released module does
            (0.35 · 180 gives 63 there, 62 in double precision).
    """

    name = "bipartite"
    source = "LightKV, arXiv 2605.00789, section 3; ToMe, arXiv 2210.09461, section 3"
    max_ratio = 0.5
    knows_inner = True
    metric: Literal["hidden", "keys"] = "hidden"
    single_precision_ratio: bool = False

    def needs(self) -> Needs:
        return frozenset({Need.KEYS}) if self.metric == "keys" else frozenset()

    def keep(self, population: int, ratio: float) -> int:
        if self.single_precision_ratio:
            wanted = int(np.float32(ratio) * np.float32(population))
        else:
            wanted = int(np.floor(ratio * population + 1e-9))
        return population - min(wanted, population // 2)

    def read_attention(self, attention: AttentionView) -> torch.Tensor | None:
        if self.metric != "keys":
            return None
        return attention.heads.mean(attention.keys().float())

    def features(self, inputs: MatchInput) -> torch.Tensor:
        """`[G, n, …]` what tokens are compared by."""
        features = inputs.tokens if self.metric == "hidden" else inputs.from_attention
        if features is None:
            raise ConfigError(
                "the key metric reads the attention of the layer before the stage",
                field=f"matcher {self.name!r}, metric",
                value=self.metric,
                remedy="use after_layer >= 1, pass key to compress_stage, or metric: hidden",
            )
        return features

    def match(self, inputs: MatchInput) -> torch.Tensor:
        features = self.features(inputs)
        if inputs.inner is not None:
            best, partner = nearest_inside(features, inputs.inner)
            return merge_best(best, partner, inputs.keep)
        best, partner = nearest_destination(features)
        return merge_most_similar(best, partner, inputs.tokens.shape[1], inputs.keep)


Size = tuple[torch.Tensor, torch.Tensor]
"""Scale and length of vectors, see `size_of`."""
SIMILARITY_ELEMENTS = 2**22
"""Similarities formed at once; windows of many thousand tokens are compared in runs of sources."""


def nearest_destination(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine `[G, ⌈n/2⌉]` and index of the nearest odd token for each even one of `[G, n, D]`."""
    return most_similar(features[:, 0::2], features[:, 1::2])


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
    return torch.linalg.vector_norm(block, dim=-1).square()


def merge_most_similar(
    best: torch.Tensor, partner: torch.Tensor, population: int, keep: int
) -> torch.Tensor:
    """Targets `[G, n]` when the n − keep sources of largest `best` `[G, ⌈n/2⌉]` join `partner`."""
    order = torch.sort(best, dim=-1, descending=True, stable=True).indices
    sources = order[:, : population - keep]
    places = torch.arange(population, device=best.device).expand(best.shape[0], -1)
    return places.scatter(1, 2 * sources, 2 * partner.gather(1, sources) + 1)


OUTSIDE = 4.0
"""Taken off the cosine with a token of another inner window, more than cosines differ by."""


def alternate(inner: torch.Tensor) -> torch.Tensor:
    """`[G, n]` true at the sources: the even places of each inner window of `[G, n]` sorted labels."""
    place = torch.arange(inner.shape[1], device=inner.device).expand_as(inner)
    opens = torch.ones_like(inner, dtype=torch.bool)
    opens[:, 1:] = inner[:, 1:] != inner[:, :-1]
    start = torch.where(opens, place, 0).cummax(dim=1).values
    return with_destinations((place - start) % 2 == 0)


def with_destinations(source: torch.Tensor) -> torch.Tensor:
    """`[G, n]` as given, but every other token where all are sources (inner windows of one token)."""
    place = torch.arange(source.shape[1], device=source.device).expand_as(source)
    return torch.where(source.all(dim=1, keepdim=True), place % 2 == 0, source)


def nearest_inside(
    features: torch.Tensor, inner: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and index `[G, n]` of each source's nearest destination in its own inner window.

    Destinations have −∞. A source whose window has no destination takes the nearest one outside,
    after all others.
    """
    source = alternate(inner)
    best, partner = [], []
    for rows, near in cosine_runs(features, features):
        outside = inner[:, rows, None] != inner[:, None, :]
        inside = torch.where(outside, near - OUTSIDE, near)
        value, index = inside.masked_fill(source[:, None, :], -torch.inf).max(dim=-1)
        best.append(value)
        partner.append(index)
    return torch.cat(best, 1).masked_fill(~source, -torch.inf), torch.cat(partner, 1)


def merge_best(best: torch.Tensor, partner: torch.Tensor, keep: int) -> torch.Tensor:
    """Targets `[G, n]` when the n − keep tokens of largest `best` `[G, n]` join their `partner`."""
    order = torch.sort(best, dim=-1, descending=True, stable=True).indices
    sources = order[:, : best.shape[1] - keep]
    places = torch.arange(best.shape[1], device=best.device).expand_as(best)
    return places.scatter(1, sources, partner.gather(1, sources))
