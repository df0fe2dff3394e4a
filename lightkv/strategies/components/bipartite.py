"""Bipartite matching of alternating tokens, shared by LightKV and ToMe.

Sources A are the even places of a window, destinations B the odd ones. Each source proposes its
most similar destination; the r best proposals are merged, several may share a destination.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from lightkv.core.attention import AttentionView
from lightkv.core.contracts import Matcher, MatchInput
from lightkv.core.errors import ConfigError
from lightkv.core.needs import Need, Needs
from lightkv.strategies.components.selection import descending, place_in_run
from lightkv.strategies.components.similarity import EXCLUDED, cosine_runs, most_similar


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


def nearest_destination(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine `[G, ⌈n/2⌉]` and index of the nearest odd token for each even one of `[G, n, D]`."""
    return most_similar(features[:, 0::2], features[:, 1::2])


def merge_most_similar(
    best: torch.Tensor, partner: torch.Tensor, population: int, keep: int
) -> torch.Tensor:
    """Targets `[G, n]` when the n − keep sources of largest `best` `[G, ⌈n/2⌉]` join `partner`."""
    sources = descending(best)[:, : population - keep]
    places = torch.arange(population, device=best.device).expand(best.shape[0], -1)
    return places.scatter(1, 2 * sources, 2 * partner.gather(1, sources) + 1)


def alternate(inner: torch.Tensor) -> torch.Tensor:
    """`[G, n]` true at the sources: the even places of each inner window of `[G, n]` sorted labels."""
    return with_destinations(place_in_run(inner) % 2 == 0)


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
        inside = torch.where(outside, near - EXCLUDED, near)
        value, index = inside.masked_fill(source[:, None, :], -torch.inf).max(dim=-1)
        best.append(value)
        partner.append(index)
    return torch.cat(best, 1).masked_fill(~source, -torch.inf), torch.cat(partner, 1)


def merge_best(best: torch.Tensor, partner: torch.Tensor, keep: int) -> torch.Tensor:
    """Targets `[G, n]` when the n − keep tokens of largest `best` `[G, n]` join their `partner`."""
    sources = descending(best)[:, : best.shape[1] - keep]
    places = torch.arange(best.shape[1], device=best.device).expand_as(best)
    return places.scatter(1, sources, partner.gather(1, sources))
