"""Importances that read neither model nor encoder: ones, and sizes."""

from __future__ import annotations

import torch

from lightkv.core.contracts import ScoreInput, Scorer


class Uniform(Scorer):
    """ξ = 1 for every token: the plain mean."""

    name = "uniform"

    def score(self, inputs: ScoreInput) -> torch.Tensor:
        return torch.ones_like(inputs.size)


class Size(Scorer):
    """ξ = number of original tokens that a token holds."""

    name = "size"
    source = "ToMe, arXiv 2210.09461, section 3 (tracking token size)"

    def score(self, inputs: ScoreInput) -> torch.Tensor:
        return inputs.size
