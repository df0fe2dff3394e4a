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
from lightkv.strategies.components.selection import first_largest, kept_only, rounded_keep, rows
from lightkv.strategies.components.similarity import EXCLUDED, SIMILARITY_ELEMENTS


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
        features, keep = unit_runs(inputs.tokens.detach()), inputs.keep
        groups, population, _ = features.shape
        chosen = torch.full((groups, keep), 0, dtype=torch.long, device=features.device)
        farness = nearest_other(features)
        taken = torch.zeros_like(farness, dtype=torch.bool)
        nearest = torch.zeros_like(farness, dtype=torch.long)
        for number in range(keep):
            token = first_largest(farness.masked_fill(taken, -torch.inf))
            chosen[:, number] = token
            taken = taken.scatter(1, token[:, None], True)
            distance = 1.0 - _cosine(rows(features, token[:, None]), features)[:, 0]
            nearer = (distance < farness) | (number == 0)
            nearest = torch.where(nearer, token[:, None], nearest)
            farness = torch.where(nearer, distance, farness)
        if self.join:
            return nearest.scatter(1, chosen, chosen)
        return kept_only(chosen, population)


def nearest_other(features: torch.Tensor) -> torch.Tensor:
    """`[G, n]` distance of each token of `[G, n, D]`, all of length 1, to the nearest other one."""
    groups, population, _ = features.shape
    step = max(1, SIMILARITY_ELEMENTS // max(1, groups * population))
    places = torch.arange(population, device=features.device)
    parts = []
    for first in range(0, population, step):
        run = slice(first, first + step)
        near = _cosine(features[:, run], features)
        itself = (places[run, None] == places[None]).float()
        parts.append((near - EXCLUDED * itself).amax(dim=-1))
    return 1.0 - torch.cat(parts, dim=1)


def _cosine(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`[G, a, b]` of `[G, a, D]` and `[G, b, D]`, all of length 1."""
    return torch.matmul(left, right.transpose(1, 2))


PRESET = PipelineSpec(
    name="divprune",
    source="Alvar et al., CVPR 2025, arXiv 2503.02175",
    partitioner={"name": "whole", "scope": "image"},
    matcher="farthest-first",
    aggregator="drop",
    positions="renumber-contiguous",
    schedule=Recipe(retention=0.098, after_layer=0, windows=(None,)),
)
