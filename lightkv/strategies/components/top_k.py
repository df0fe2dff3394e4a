"""Matchers that keep tokens as they are: the most important ones, or all."""

from __future__ import annotations

import torch

from lightkv.core.contracts import Matcher, MatchInput
from lightkv.strategies.components.selection import Rounding, descending, kept_only, rounded_keep


class KeepAll(Matcher):
    """Every token survives: the identity, for tests and ablations."""

    name = "keep-all"

    def keep(self, population: int, ratio: float) -> int:
        return population

    def match(self, inputs: MatchInput) -> torch.Tensor:
        groups, population = inputs.tokens.shape[:2]
        return torch.arange(population, device=inputs.tokens.device).expand(groups, -1)


class TopK(Matcher):
    """Keeps the tokens of largest importance, lower index first among equals; drops the rest.

    Attributes:
        rounding: of the number kept, n·(1 − ρ): `round` (half to even), `floor` or `ceil`.
    """

    name = "top-k"
    needs_score = True
    drops = True
    rounding: Rounding = "ceil"

    def keep(self, population: int, ratio: float) -> int:
        return rounded_keep(population, ratio, self.rounding)

    def match(self, inputs: MatchInput) -> torch.Tensor:
        assert inputs.score is not None
        chosen = descending(inputs.score)[:, : inputs.keep]
        return kept_only(chosen, inputs.score.shape[1])
