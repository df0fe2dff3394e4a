"""CDPruner: the subset of tokens that is most diverse among what is relevant to the question.

Zhang et al., "Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in
MLLMs" (NeurIPS 2025, arXiv 2506.10967); Theia-4869/CDPruner; OpenVINO GenAI ships it for Qwen-VL.
Kernel K = diag(r) S diag(r): S the cosines of the projected embeddings, r the relevance of each token
to the question, brought to [0, 1]. The greedy choice for the determinantal point process of K takes
the token that enlarges the determinant of the chosen ones most, k times.

Kept: kernel, normalisation and greedy choice. Not kept: the relevance of the paper is that of CLIP's
text encoder, which a language model of today does not bring along. As in OpenVINO's port, the words
are the language model's own embeddings and r is softened to exp(α r), so the method runs on every
model.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from lightkv.core.contracts import Matcher, MatchInput, ScoreInput, Scorer
from lightkv.core.errors import ConfigError
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe
from lightkv.strategies.components.magnitude import power_of_two, unit, unit_runs
from lightkv.strategies.components.selection import first_largest, kept_only, rounded_keep, rows

SPENT = 1e-4
"""A token whose direction the chosen ones span but for this share of its square adds no diversity."""


class TextRelevance(Scorer):
    """ξ_i = 1 ± the mean cosine of token i with the words of the question, before or between layers.

    Words are the text tokens behind the last vision token of a row. A row without any takes all of
    its text, and one without text has ξ = 1.

    Attributes:
        text: `behind` the last vision token, or `all` text tokens.
        sign: `positive`: alike is relevant (language models). `negative`: unlike is, as the authors
            have it for the patches of CLIP.
    """

    name = "text-relevance"
    source = (
        "CDPruner, arXiv 2506.10967, section 3 (embeddings of the language model: OpenVINO GenAI)"
    )
    needs_prompt = True
    text: Literal["behind", "all"] = "behind"
    sign: Literal["positive", "negative"] = "positive"

    def score(self, inputs: ScoreInput) -> torch.Tensor:
        hidden = inputs.hidden_states.detach()
        question = self._question(inputs, hidden)
        tokens = hidden.reshape(-1, hidden.shape[-1]).index_select(0, inputs.vision)
        directions = unit_runs(tokens[None])[0]
        near = (directions * question.index_select(0, inputs.sample)).sum(dim=-1)
        # Rounding must not make an importance negative.
        return (1.0 + (near if self.sign == "positive" else -near)).clamp(min=0.0)

    def _question(self, inputs: ScoreInput, hidden: torch.Tensor) -> torch.Tensor:
        """`[B, D]` mean direction of the words: its product with a direction is the mean cosine."""
        prompt = inputs.prompt
        index, words = prompt.index, prompt.valid
        if self.text == "behind":
            last = torch.full_like(index[:, 0] if index.shape[1] else words.sum(dim=1), -1)
            place = inputs.vision % hidden.shape[1]
            last = last.scatter_reduce(0, inputs.sample, place, "amax")
            behind = words & (index > last[:, None])
            words = torch.where(behind.any(dim=1, keepdim=True), behind, words)
        each = unit_runs(rows(hidden, index)).masked_fill(~words.unsqueeze(-1), 0.0)
        return each.sum(dim=1) / words.sum(dim=1, keepdim=True).clamp(min=1)


class ConditionalDPP(Matcher):
    """Keeps the greedy choice of the determinantal point process of K = diag(r) S diag(r).

    r is the importance brought to [0, 1] in each window, 1 for all where all are equal. det K of a
    set is Π r² times the squared volume that its directions span, so each round takes the largest r²
    times squared distance from the span of those chosen, and one basis of that span is all that is
    kept: O(k · n · D) time, k · D numbers, no matrix of n². Once the chosen ones span all directions
    (k beyond the rank, where the authors' code goes on among rounding errors), the most relevant of
    the others follow. Lower index first among equals.

    Attributes:
        theta: weight θ of relevance against diversity. Below 1 r becomes exp(α r), α = θ/(2(1 − θ)),
            as OpenVINO has it, with its default; 0 is diversity alone. 1: r itself, as the authors have
            it, for the relevance of CLIP.
    """

    name = "conditional-dpp"
    source = "CDPruner, arXiv 2506.10967, section 3; greedy MAP of Chen et al., arXiv 1709.05135"
    needs_score = True
    drops = True
    theta: float = Field(default=0.5, ge=0.0, le=1.0)

    def keep(self, population: int, ratio: float) -> int:
        return rounded_keep(population, ratio, "round")

    def match(self, inputs: MatchInput) -> torch.Tensor:
        if inputs.score is None:
            raise ConfigError(
                "the kernel is weighted by importances",
                field=f"matcher {self.name!r}",
                remedy="add a scorer, such as 'text-relevance', or use 'farthest-first'",
            )
        features, population = unit_runs(inputs.tokens.detach()), inputs.tokens.shape[1]
        quality = self._quality(inputs.score.detach())
        chosen = greedy_volume(features, quality, inputs.keep)
        return kept_only(chosen, population)

    def _quality(self, score: torch.Tensor) -> torch.Tensor:
        """`[G, n]` r² of each token, at most 1."""
        score = score.float() * power_of_two(score.amax(dim=1, keepdim=True))
        low = score.amin(dim=1, keepdim=True)
        width = score.amax(dim=1, keepdim=True) - low
        relevance = torch.where(width > 0, (score - low) / torch.where(width > 0, width, 1.0), 1.0)
        if self.theta == 1.0:
            return relevance.square()
        # exp(α r)², divided by the largest: a common factor changes no choice.
        return torch.exp(self.theta / (1.0 - self.theta) * (relevance - 1.0))


def greedy_volume(features: torch.Tensor, quality: torch.Tensor, keep: int) -> torch.Tensor:
    """`[G, keep]` tokens that enlarge the volume most, in the order of the choice.

    Args:
        features: `[G, n, D]` of length 1 (or 0).
        quality: `[G, n]` factor ≥ 0 of each token's squared distance from the span.
        keep: tokens to choose, at most n.
    """
    groups, population, width = features.shape
    device = features.device
    chosen = torch.zeros((groups, keep), dtype=torch.long, device=device)
    basis = features.new_zeros(groups, min(keep, width), width)
    # Exactly 1, so that rounding decides between no two tokens; a token of zeros spans nothing.
    apart = (features.square().sum(dim=-1) > 0).float()
    taken = torch.zeros((groups, population), dtype=torch.bool, device=device)
    for number in range(keep):
        live = (apart > SPENT) & ~taken
        anyone = live.any(dim=1, keepdim=True)
        value = torch.where(anyone, quality * apart, quality)
        token = first_largest(value.masked_fill(~torch.where(anyone, live, ~taken), -torch.inf))
        chosen[:, number] = token
        taken = taken.scatter(1, token[:, None], True)
        if number + 1 == keep or number >= width:
            continue
        direction = rows(features, token[:, None])
        # Twice is enough: the second pass takes off what rounding left in the span.
        for _ in range(2):
            inside = torch.matmul(direction, basis[:, :number].transpose(1, 2))
            direction = direction - torch.matmul(inside, basis[:, :number])
        direction = torch.where(anyone.unsqueeze(-1), unit(direction), 0.0)
        basis[:, number] = direction[:, 0]
        along = torch.matmul(features, direction.transpose(1, 2))[..., 0]
        apart = (apart - along.square()).clamp(min=0.0)
    return chosen


PRESET = PipelineSpec(
    name="cdpruner",
    source="Zhang et al., NeurIPS 2025, arXiv 2506.10967",
    partitioner="whole",
    scorer="text-relevance",
    matcher="conditional-dpp",
    aggregator="drop",
    positions="renumber-contiguous",
    # 128 of 576 tokens, the first of the published settings.
    schedule=Recipe(retention=128 / 576, after_layer=0, windows=(None,)),
)
