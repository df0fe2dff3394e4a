"""Budgets that follow the picture: one that repeats itself gives more than it must.

A part to be ablated, not a preset; docs/strategies.md tells what it gained.
"""

from __future__ import annotations

import torch
from pydantic import Field

from lightkv.core.contracts import MatchInput
from lightkv.strategies.components.bipartite import Bipartite, nearest_destination, nearest_inside


class AdaptiveBipartite(Bipartite):
    """Merges what `bipartite` merges, and every further source nearer than a threshold.

    The ratio is a floor: at least ⌊ρ·n⌋ tokens go, and all sources with
    FD = 1 − cos ≤ `divergence`, so a plain sky gives more than a crowd. The planned retention is then
    a ceiling. How many tokens survive depends on values, for one wait for the device in each stage.

    Attributes:
        divergence: sources that diverge this little from their nearest destination always merge.
    """

    name = "adaptive-bipartite"
    source = "this project: budget from the divergence spectrum"
    divergence: float = Field(default=0.05, ge=0.0, le=2.0)

    @property
    def dynamic(self) -> bool:
        return True

    def count(self, inputs: MatchInput) -> torch.Tensor:
        features = self.features(inputs)
        if inputs.inner is None:
            best, _ = nearest_destination(features)
        else:
            best, _ = nearest_inside(features, inputs.inner)
        redundant = (1.0 - best <= self.divergence).sum(dim=1)
        population = inputs.tokens.shape[1]
        return (population - redundant.clamp(max=population // 2)).clamp(max=inputs.keep)
