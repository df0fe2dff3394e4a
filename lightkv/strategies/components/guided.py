"""Prompt-aware matching: what merges with what depends on the question too.

Plain bipartite matching merges what looks alike, whatever the prompt asks, because vision tokens that
stand before the question cannot see it. Here a pair costs what merging it puts at risk: its feature
divergence times the importance of both tokens. An idea of this project, not of a paper.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field

from lightkv.core.contracts import MatchInput
from lightkv.strategies.components.bipartite import Bipartite, merge_best, with_destinations
from lightkv.strategies.components.magnitude import power_of_two
from lightkv.strategies.components.selection import descending, run_starts
from lightkv.strategies.components.similarity import cosine_runs

ELSEWHERE = 1e6
"""Added to the cost of a pair from two inner windows: more than any cost inside one."""


class Guided(Bipartite):
    """Merges the pairs of smallest cost (1 − cos(x_α, x_β)) · (ξ_α + ξ_β).

    The top ⌊protect · n⌋ tokens of a window by importance are never sources; they may be
    destinations. The others are split into sources and destinations by `split`. Importances are
    divided by their mean, so costs of windows that share a budget can be compared. Lower index wins
    among equals.

    Attributes:
        split: `alternate`: every other token is a source, as in `bipartite`. `importance`: the less
            important half are sources, so that what the prompt looks at stays and takes in the rest.
        protect: share of a window's tokens that are never sources. One stage removes at most half
            of the others, so `max_ratio` is (1 − protect)/2.
        normalize: what importances are divided by: the mean of the `window` (which is the view
            where windows share a budget), or of the `inner` window. Without inner windows the two
            are the same.
    """

    name = "guided"
    source = "this project: bipartite matching with importances in the cost"
    needs_score = True
    split: Literal["alternate", "importance"] = "alternate"
    protect: float = Field(default=0.0, ge=0.0, lt=1.0)
    normalize: Literal["window", "inner"] = "window"

    @property
    def max_ratio(self) -> float:  # type: ignore[override]
        return 0.5 * (1.0 - self.protect)

    def keep(self, population: int, ratio: float) -> int:
        free = population - int(np.floor(self.protect * population + 1e-9))
        return max(super().keep(population, ratio), population - free // 2)

    def match(self, inputs: MatchInput) -> torch.Tensor:
        assert inputs.score is not None
        score, features = inputs.score.float(), self.features(inputs)
        inner = torch.zeros_like(inputs.tokens[..., 0], dtype=torch.long)
        if inputs.inner is not None:
            inner = inputs.inner
        place = compact(inner)
        level = place if self.normalize == "inner" else torch.zeros_like(place)
        source = with_destinations(self._sources(score, place))
        best, partner = cheapest(features, _relative(score, level), source, inner)
        return merge_best(best, partner, inputs.keep)

    def _sources(self, score: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
        """`[G, n]` true at the tokens that may merge into others."""
        count = score.shape[1]
        protected = int(np.floor(self.protect * count + 1e-9))
        order = descending(score)
        if self.split == "importance":
            low = order[:, max(protected, count - count // 2) :]
            return torch.zeros_like(score, dtype=torch.bool).scatter(1, low, True)
        return self._alternate(order, protected, score, window)

    @staticmethod
    def _alternate(
        order: torch.Tensor, protected: int, score: torch.Tensor, window: torch.Tensor
    ) -> torch.Tensor:
        """`[G, n]` true at every other token, from the first, of the free ones of a window."""
        free = torch.ones_like(score).scatter(1, order[:, :protected], 0.0)
        count = free.cumsum(dim=1)
        before = torch.zeros_like(count).scatter_add(1, window, free).cumsum(dim=1)
        start = torch.cat([torch.zeros_like(before[:, :1]), before[:, :-1]], dim=1)
        nth = count - start.gather(1, window)
        return (free > 0) & (nth % 2 == 1)


def compact(inner: torch.Tensor) -> torch.Tensor:
    """`[G, n]` inner windows numbered 0, 1, … in each window, from sorted labels."""
    return run_starts(inner).cumsum(dim=1) - 1


def _relative(score: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """`[G, n]` score divided by its mean over the tokens of the same level; ones if all are 0."""
    score = score * power_of_two(score.amax(dim=1, keepdim=True))
    total = torch.zeros_like(score).scatter_add(1, level, score).gather(1, level)
    ones = torch.ones_like(score)
    count = torch.zeros_like(score).scatter_add(1, level, ones).gather(1, level)
    return torch.where(total > 0, score * count / total.clamp(min=1e-30), ones)


def cheapest(
    features: torch.Tensor, score: torch.Tensor, source: torch.Tensor, inner: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Minus the cost and the index `[G, n]` of each source's cheapest destination.

    Tokens that are no sources have −∞. A source whose inner window has no destination takes one
    outside, after all others.
    """
    best, partner = [], []
    for rows, near in cosine_runs(features, features):
        cost = (1.0 - near) * (score[:, rows, None] + score[:, None, :])
        outside = inner[:, rows, None] != inner[:, None, :]
        cost = torch.where(outside, cost + ELSEWHERE, cost)
        value, index = (-cost).masked_fill(source[:, None, :], -torch.inf).max(dim=-1)
        best.append(value)
        partner.append(index)
    return torch.cat(best, 1).masked_fill(~source, -torch.inf), torch.cat(partner, 1)
