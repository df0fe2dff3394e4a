"""ElasticCache: keep the most attended entries, merge every other one into the nearest kept one.

Liu et al., "Efficient Inference of Vision Instruction-Following Models with Elastic Cache" (ECCV 2024,
arXiv 2407.18121; liuzuyan/ElasticCache). The paper is implemented, not the code's slips: there an
`argsort` stands for ranks (so the entries kept are not the most attended), offsets of protected
entries are missing, and one entry too many goes.
"""

from __future__ import annotations

import torch
from pydantic import Field

from lightkv.core.attention import AttentionView
from lightkv.core.contracts import AttentionScorer, Matcher, MatchInput
from lightkv.core.needs import Need
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe
from lightkv.strategies.components.positions import Keep
from lightkv.strategies.components.selection import descending


class KeepContiguous(Keep):
    """As `keep`, and generated tokens are numbered by the compressed length of each layer."""

    name = "keep-contiguous"
    source = "ElasticCache, arXiv 2407.18121 (released code: the cache's own length)"
    decode = "contiguous"


class ReceivedAttention(AttentionScorer):
    """ξ_i = mean over heads of Σ_q P_h[q, i], the causal attention that all queries pay to i."""

    name = "received-attention"
    source = "ElasticCache, arXiv 2407.18121, section 3.2"
    requires = frozenset({Need.COLUMN_SUMS})

    def read_attention(self, attention: AttentionView) -> torch.Tensor:
        return attention.heads.mean(attention.column_sums())


class Anchors(Matcher):
    """Keeps the tokens of largest importance; every other one joins the kept one nearest in order.

    n − ⌊ρ·n⌋ tokens are kept, among them always the first `first` and the last `last` as far as they
    fit. Distance is that of the places in the window; the lower one wins among equals, of places and
    of importances.

    Attributes:
        first, last: protected tokens at the two ends of a window. The last entry of a prompt, which
            ElasticCache protects, needs no number here: no stage touches it.
    """

    name = "anchors"
    source = "ElasticCache, arXiv 2407.18121, section 3.3"
    needs_score = True
    first: int = Field(default=1, ge=0)
    last: int = Field(default=0, ge=0)

    def match(self, inputs: MatchInput) -> torch.Tensor:
        assert inputs.score is not None
        count = inputs.score.shape[1]
        places = torch.arange(count, device=inputs.score.device)
        # Two sorts instead of a bonus, which could not outrank an infinite importance.
        ends = ((places < self.first) | (places >= count - self.last)).to(torch.uint8)
        order = descending(inputs.score)
        protected = descending(ends[order])
        kept = order.gather(1, protected)[:, : inputs.keep]
        anchor = torch.zeros_like(order, dtype=torch.bool).scatter(1, kept, True)
        return nearest_anchor(anchor)


def nearest_anchor(anchor: torch.Tensor) -> torch.Tensor:
    """`[G, n]` place of the nearest true entry of `[G, n]`, the lower of two; −1 if there is none."""
    count = anchor.shape[1]
    places = torch.arange(count, device=anchor.device).expand_as(anchor)
    below = torch.where(anchor, places, -count - 1).cummax(dim=1).values
    above = torch.where(anchor, places, 2 * count + 1).flip(1).cummin(dim=1).values.flip(1)
    nearest = torch.where(places - below <= above - places, below, above)
    return torch.where((nearest >= 0) & (nearest < count), nearest, -1)


PRESET = PipelineSpec(
    name="elastic-cache",
    source="Liu et al., ECCV 2024, arXiv 2407.18121",
    partitioner={"name": "whole", "scope": "sample"},
    scorer="received-attention",
    matcher="anchors",
    aggregator={"name": "weighted-mean", "weights": "uniform"},
    positions="keep-contiguous",
    schedule=Recipe(site="cache", scope="all", windows=(None,), retention=0.8),
)
