"""AutoPrune's budget by complexity: what the prompt looks at sharply gives early, the rest gives late.

Wang et al., "AutoPrune: Each Complexity Deserves a Pruning Policy" (NeurIPS 2025, arXiv 2509.23931);
AutoLab-SAI-SJTU/AutoPrune. The complexity of a sample is the mutual information between text and
vision tokens in the attention of an early layer. It sets the slope k = max(k₀ − γ · MI, 0) of a
logistic curve 1/(1 + exp(k(ℓ − x₀))) over the layers, scaled so that its area is the budget, and every
layer keeps what the curve says: ⌈N · curve⌉ tokens of the largest mean attention of the text.

Kept: mutual information, slope, curve, score. Not kept: a number of tokens for each sample and layer
that follows from values. It would have to be read back from the device at each stage, carried from the
first stage to the later ones, and it could not be planned, given KV blocks or run with the rows of a
batch, which shapes that follow from layouts allow. What the curves decide here is whose tokens stay: the
schedule fixes how many a prompt keeps at a stage, and its pictures share them by the heights of their
own curves there. A prompt of one picture keeps the budget of the curve that the schedule was made
of. Left out too: the released code's clusters of dropped tokens, and class attention in layer 0.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from pydantic import Field
from torch.nn.functional import softplus

from lightkv.core.attention import AttentionView
from lightkv.core.contracts import (
    PROTECTED,
    Matcher,
    MatchInput,
    Partition,
    Partitioner,
    WindowSpec,
)
from lightkv.core.errors import ConfigError
from lightkv.core.layout import Groups, SampleLayout
from lightkv.core.needs import Need
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe
from lightkv.strategies.components.budgets import shared_out
from lightkv.strategies.components.selection import (
    best,
    descending,
    kept_only,
    ranks_inside,
    rounded_keep,
    run_starts,
)

LAYERS, HEADS = 32, 32
"""Of the authors' model: their slopes are per layer, their information is a sum over heads."""
MIDDLE, STEEPEST, SENSITIVITY = 14.9 / LAYERS, 0.4 * LAYERS, 0.2 * HEADS * LAYERS
"""x₀, k₀ and γ of the released code over a depth of 1 and for the mean over heads."""


NEARLY_FLAT = 0.02
"""Below this slope a curve is a straight line, to seven digits."""
ROOM = 2**24
"""More than any picture has tokens: labels of inner windows hold a picture's number and its size."""


class Pictures(Partitioner):
    """One window over each sample; its inner windows are the images. Separators (newlines) stay.

    The label of an image is its number · `ROOM` + the tokens that it had before any stage.
    """

    name = "pictures"

    def partition(self, sample: SampleLayout, groups: Groups, windows: WindowSpec) -> Partition:
        tokens = sample.tokens
        label = np.where(tokens.separator, PROTECTED, 0)
        _, image, size = np.unique(tokens.image, return_inverse=True, return_counts=True)
        inner = image * ROOM + size[image]
        return Partition(label, inner=np.where(tokens.separator, 0, inner).astype(np.int64))


class ComplexityBudget(Matcher):
    """Keeps the most important tokens of each picture; pictures share the budget by logistic curves.

    MI of a picture = mean over heads of Σ_t Σ_i (P_ti/T) log₂(P_ti / p_i), p_i = Σ_t P_ti/T, over its
    tokens i and the T text tokens t behind it. Slope k = max(`slope` − `sensitivity` · MI, 0). At depth
    d a picture of N original tokens claims N · c(d) / ∫c, c(d) = 1/(1 + exp(k(d − `middle`))), the
    integral over the depth from 0 to 1: the curve of equal area. Largest remainders; what a picture
    cannot use goes to the most important tokens of all. So the total is exact.

    Wants the inner windows of the partitioner `pictures`; without them it is top-k. Where the depth is
    not known d = `middle`.

    Attributes:
        slope: k₀ over a depth of 1.
        sensitivity: γ over a depth of 1, for bits of the mean head.
        middle: x₀, share of the depth at which half of a curve has fallen.
    """

    name = "complexity-budget"
    source = "AutoPrune, arXiv 2509.23931, section 3; budgets between pictures: this project"
    needs_score = True
    knows_inner = True
    drops = True
    requires = frozenset({Need.PROMPT_ROWS})
    slope: float = Field(default=STEEPEST, ge=0.0)
    sensitivity: float = Field(default=SENSITIVITY, ge=0.0)
    middle: float = Field(default=MIDDLE, ge=0.0, le=1.0)

    def keep(self, population: int, ratio: float) -> int:
        return rounded_keep(population, ratio, "ceil")

    def read_attention(self, attention: AttentionView) -> torch.Tensor:
        """`[B, N, 1]` what each position adds to the mutual information: at least 0."""
        return attention.heads.mean(information(attention)).unsqueeze(-1)

    def match(self, inputs: MatchInput) -> torch.Tensor:
        if inputs.score is None or inputs.from_attention is None:
            raise ConfigError(
                "complexity is read off the attention of the layer before the stage",
                field=f"matcher {self.name!r}",
                remedy="use after_layer >= 1, or pass attention tensors to compress_stage",
            )
        score, population = inputs.score, inputs.score.shape[1]
        if inputs.inner is None:
            return kept_only(descending(score)[:, : inputs.keep], population)
        picture = run_starts(inputs.inner).long().cumsum(dim=1) - 1
        none = torch.zeros_like(score, dtype=torch.float32)
        bits = none.scatter_add(1, picture, inputs.from_attention[..., 0].float())
        size = none.scatter(1, picture, (inputs.inner % ROOM).float())
        quota = shared_out(inputs.keep, size * self._height(inputs, bits))
        granted = ranks_inside(score, picture) < quota.gather(1, picture)
        return kept_only(best(score, granted.long(), inputs.keep), population)

    def _height(self, inputs: MatchInput, bits: torch.Tensor) -> torch.Tensor:
        """`[G, n]` height of the curve of picture p over its mean height, at place p."""
        context, depth = inputs.context, self.middle
        if context.num_layers:
            depth = context.after_layer / context.num_layers
        slope = (self.slope - self.sensitivity * bits).clamp(min=0.0)
        steep = slope.clamp(min=NEARLY_FLAT)
        below, above = steep * self.middle, steep * (self.middle - 1.0)
        area = (softplus(below) - softplus(above)) / steep
        flat = 0.5 - slope * (0.5 - self.middle) / 4.0
        mean = torch.where(slope < NEARLY_FLAT, flat, area)
        return torch.sigmoid(slope * (self.middle - depth)) / mean.clamp(min=1e-6)


def information(attention: AttentionView) -> torch.Tensor:
    """`[B, H, N]` (1/T) Σ_t P_ti log₂ P_ti − p_i log₂ p_i of each head and key i, in bits, at least 0.

    t are the T prompt tokens behind i, p_i the mean of P_ti over them. Summed over the tokens of a
    picture this is the mutual information Σ_t Σ_i (P_ti/T) log₂(P_ti / p_i), of one pass over the
    rows and without a table of all of them.
    """
    prompt = attention.prompt
    places = torch.arange(prompt.query_valid.shape[1], device=prompt.index.device)
    # [B, N] prompt tokens behind each position.
    counts = torch.zeros(prompt.query_valid.shape, dtype=torch.float32, device=places.device)
    counts = counts.scatter_add(1, prompt.index, prompt.valid.float())
    counts = counts.sum(dim=1, keepdim=True) - counts.cumsum(dim=1)
    sums: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for block in attention.prompt_rows():
        behind = block.valid[:, :, None] & (prompt.index[:, block.columns, None] > places)
        rows = torch.where(behind[:, None], block.values, 0.0)
        once, more = rows.sum(dim=2), torch.xlogy(rows, rows).sum(dim=2)
        if block.heads.start in sums:
            before = sums[block.heads.start]
            once, more = before[0] + once, before[1] + more
        sums[block.heads.start] = once, more
    if not sums:
        return counts[:, None] * 0.0
    total = counts.clamp(min=1.0)[:, None]
    mean = torch.cat([once for once, _ in sums.values()], dim=1) / total
    joint = torch.cat([more for _, more in sums.values()], dim=1) / total
    return ((joint - torch.xlogy(mean, mean)) / math.log(2.0)).clamp(min=0.0)


def falling(depth: float, slope: float = STEEPEST / 2, middle: float = MIDDLE) -> float:
    """The logistic curve of a sample of middling complexity."""
    return 1.0 / (1.0 + math.exp(slope * (depth - middle)))


DEPTHS = (0.25, 0.5, 0.75)
PRESET = PipelineSpec(
    name="autoprune",
    source="Wang et al., NeurIPS 2025, arXiv 2509.23931",
    partitioner="pictures",
    scorer="causal-attention",
    matcher="complexity-budget",
    aggregator="drop",
    positions="renumber-contiguous",
    schedule=Recipe(
        windows=(None,),
        depths=DEPTHS,
        ratios=tuple(
            1.0 - falling(after) / falling(before)
            for before, after in zip((0.0, *DEPTHS), DEPTHS, strict=False)
        ),
    ),
)
