"""Two ideas of this project around LightKV: budgets that follow the picture, and prompts that listen.

`adaptive-bipartite` lets a picture that repeats itself give more than it must;
`weighted-causal-attention` lets the prompt tokens that the last token attends to speak louder. Parts to
be ablated, not a preset; docs/strategies.md tells what they gained.
"""

from __future__ import annotations

import torch
from pydantic import Field

from lightkv.core.attention import AttentionView
from lightkv.core.contracts import AttentionScorer, MatchInput
from lightkv.core.needs import Need
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


class WeightedCausalAttention(AttentionScorer):
    """ξ_i = Σ_j w_j · mean_h P[h, j, i], w_j = mean_h P[h, last, j]: two steps of attention.

    As `causal-attention`, but a prompt token counts as much as the last token attends to it, so words
    that carry the question weigh more than those that hold the sentence together.
    """

    name = "weighted-causal-attention"
    source = "this project: attention of the last token, rolled out by one step over the prompt"
    requires = frozenset({Need.PROMPT_ROWS, Need.LAST_ROW})

    def read_attention(self, attention: AttentionView) -> torch.Tensor:
        prompt = attention.prompt
        weight = attention.heads.mean(attention.last_row()).gather(1, prompt.index)
        weight = torch.where(prompt.valid, weight, 0.0)
        total = torch.zeros(prompt.query_valid.shape, dtype=torch.float32, device=weight.device)
        for block in attention.prompt_rows():
            rows = block.values.sum(dim=1)
            total = total + (rows * weight[:, block.columns, None]).sum(dim=1)
        return attention.heads.total(total)
