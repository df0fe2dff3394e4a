"""DivPrune: the subset of tokens whose nearest pair is as far apart as a greedy choice can make it.

Alvar et al., "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models" (CVPR 2025,
arXiv 2503.02175); vbdi/divprune. D = 1 − cos of the projected embeddings. The first token is the one
whose nearest other token is farthest away; then always the one whose nearest selected token is
farthest away. k = round(share · N), 9.8 % by default. No encoder is read, so it runs on every model.
"""

from __future__ import annotations

import torch

from lightkv.core.contracts import Matcher, MatchInput
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe
from lightkv.strategies.components.magnitude import unit_runs
from lightkv.strategies.components.selection import kept_only, rounded_keep, rows
from lightkv.strategies.components.similarity import EXCLUDED, SIMILARITY_ELEMENTS

TAKEN = -1.0
"""Distance of what is chosen: less than any other, so that it is not chosen again."""


class FarthestFirst(Matcher):
    """Keeps a farthest-first choice of tokens by cosine distance, and drops or merges the rest.

    Lower index first among equals. Needs no importances; a running minimum makes it O(kN).

    Attributes:
        join: every other token flows into the kept one that it is most like, the one chosen first among
            equals. So no token is farther from what stands for it than the last choice was from those
            before it. False: they are dropped, as DivPrune does.
    """

    name = "farthest-first"
    source = "DivPrune, arXiv 2503.02175, section 3 (max-min diversity)"
    join: bool = False

    @property
    def drops(self) -> bool:  # type: ignore[override]
        return not self.join

    def keep(self, population: int, ratio: float) -> int:
        kept = rounded_keep(population, ratio, "round")
        # What joins needs a token to flow into.
        return max(kept, min(1, population)) if self.join else kept

    def match(self, inputs: MatchInput) -> torch.Tensor:
        features = unit_runs(inputs.tokens.detach())
        chosen = farthest_first(features, inputs.keep)
        if self.join and inputs.keep:
            return most_like(features, chosen).scatter(1, chosen, chosen)
        return kept_only(chosen, features.shape[1])


def farthest_first(features: torch.Tensor, keep: int) -> torch.Tensor:
    """`[G, keep]` tokens of `[G, n, D]`, all of length 1, in the order of the choice."""
    groups, population, _ = features.shape
    # Where all distances fit, a round is three operations: rounds follow one another, and each waits.
    fits = groups * population**2 <= SIMILARITY_ELEMENTS
    whole = _apart(features, features) if fits else None
    farness = nearest_other(features) if whole is None else _to_others(whole, slice(population))
    chosen = []
    for number in range(keep):
        # `max` over a dimension gives the first of equals.
        token = farness.max(dim=1, keepdim=True).indices
        chosen.append(token)
        if whole is None:
            distance = _apart(rows(features, token), features)
        else:
            distance = whole.gather(1, token[:, :, None].expand(-1, -1, population))
        distance = distance[:, 0].scatter(1, token, TAKEN)
        farness = distance if number == 0 else torch.minimum(farness, distance)
    none = torch.zeros((groups, 0), dtype=torch.long, device=features.device)
    return torch.cat([none, *chosen], dim=1)


def most_like(features: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """`[G, n]` which of `chosen` `[G, k]` each of `[G, n, D]` is most like, the first of equals."""
    kept = rows(features, chosen)
    found = [
        _apart(features[:, run], kept).min(dim=2).indices
        for run in _runs(features.shape[0] * chosen.shape[1], features.shape[1])
    ]
    return chosen.gather(1, torch.cat(found, dim=1))


def nearest_other(features: torch.Tensor) -> torch.Tensor:
    """`[G, n]` distance of each token of `[G, n, D]`, all of length 1, to the nearest other one."""
    groups, population, _ = features.shape
    parts = [features.new_zeros(groups, 0)]
    for run in _runs(groups * population, population):
        parts.append(_to_others(_apart(features[:, run], features), run))
    return torch.cat(parts, dim=1)


def _to_others(distance: torch.Tensor, run: slice) -> torch.Tensor:
    """`[G, a]` least of the distances `[G, a, n]` of the tokens of a run to all others."""
    places = torch.arange(distance.shape[2], device=distance.device)
    itself = (places[run, None] == places[None]).float()
    return (distance + EXCLUDED * itself).amin(dim=-1)


def _runs(width: int, count: int) -> list[slice]:
    """Runs of `count` rows of `width` numbers each, so that no run has too many numbers."""
    step = max(1, SIMILARITY_ELEMENTS // max(1, width))
    return [slice(first, first + step) for first in range(0, count, step)]


def _apart(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`[G, a, b]` cosine distances of `[G, a, D]` and `[G, b, D]`, all of length 1."""
    return 1.0 - torch.matmul(left, right.transpose(1, 2))


PRESET = PipelineSpec(
    name="divprune",
    source="Alvar et al., CVPR 2025, arXiv 2503.02175",
    partitioner={"name": "whole", "scope": "image"},
    matcher="farthest-first",
    aggregator="drop",
    positions="renumber-contiguous",
    schedule=Recipe(retention=0.098, after_layer=0, windows=(None,)),
)
