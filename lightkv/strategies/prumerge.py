"""PruMerge and PruMerge+: outliers of the class attention, each with its neighbours merged in.

Shang et al., "LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models" (ICCV
2025, arXiv 2403.15388); 42Shawn/LLaVA-PruMerge. Importance a = softmax(q_CLS·kᵀ/√C) without heads in
the last encoder layer. Chosen tokens take in their 32 nearest by key cosine, weighted by a, before the
projector; the groups overlap. PruMerge+ adds samples at even distances.

How many are chosen is the share of outliers above Q3 + 1.5·IQR in the paper, a number that follows
from values. Here it follows from `retention`, so that shapes are known ahead; `budget: outliers` is
the published rule, with `retention` as its ceiling.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from lightkv.core.contracts import Aggregator, Matcher, MatchInput, Merged, MergeInput
from lightkv.core.encoder import VisionView
from lightkv.core.errors import ConfigError
from lightkv.core.needs import Need, Needs
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe
from lightkv.strategies.components.selection import (
    best,
    descending,
    first_largest,
    flags,
    kept_only,
    ranks,
    rounded_keep,
    rows,
    unchosen,
)
from lightkv.strategies.components.similarity import EXCLUDED, cosine


class Outliers(Matcher):
    """Chooses the tokens of the largest importance, and tokens at even distances.

    Attributes:
        spatial: PruMerge+: of a static budget K the ⌈K/4⌉ most important tokens, and the others at
            even distances in the raster of those left. With `outliers`: every s-th token, with
            s = ⌊⌊1/share⌋/3⌋ (at least 1), that is not chosen yet, as in the released code.
        budget: `static` (from the stage's ratio), or `outliers`: the tokens above Q3 + 1.5·IQR, at
            least one, at most what the ratio leaves.
        summary: the last slot holds all tokens that are not chosen. It stands at the place of the
            best of them, since a token needs a place and a position in the sequence.
            Without it the record says that they were dropped, though neighbours take them in: an
            assignment is a map, and they may be in many groups or none.
    """

    name = "class-outliers"
    source = "PruMerge, arXiv 2403.15388, section 3"
    needs_score = True
    spatial: bool = False
    budget: Literal["static", "outliers"] = "static"
    summary: bool = True

    @property
    def dynamic(self) -> bool:
        return self.budget == "outliers"

    def keep(self, population: int, ratio: float) -> int:
        return rounded_keep(population, ratio, "round")

    def count(self, inputs: MatchInput) -> torch.Tensor:
        chosen = (self._wanted(_score(inputs)) > 0).sum(dim=1) + int(self.summary)
        return chosen.clamp(min=1, max=inputs.keep)

    def match(self, inputs: MatchInput) -> torch.Tensor:
        score, keep = _score(inputs), inputs.keep
        chosen = self._chosen(score, keep - int(self.summary and keep > 0))
        target = kept_only(chosen, score.shape[1])
        if keep == 0 or not self.summary:
            return target
        place = first_largest(score.masked_fill(target >= 0, -torch.inf))[:, None]
        return torch.where(target < 0, place, target)

    def _chosen(self, score: torch.Tensor, count: int) -> torch.Tensor:
        """`[G, count]` tokens that stay."""
        if self.dynamic:
            return best(score, self._wanted(score), count)
        first = -(-count // 4) if self.spatial else count
        top = descending(score)[:, :first]
        left = score.shape[1] - first
        if first == count:
            return top
        places = torch.arange(count - first, device=score.device) * left // (count - first)
        return torch.cat([top, unchosen(flags(top, score.shape[1]), left)[:, places]], dim=1)

    def _wanted(self, score: torch.Tensor) -> torch.Tensor:
        """`[G, n]` 2 at outliers, 1 at spatial samples, 0 elsewhere: the released code's choice."""
        population = score.shape[1]
        low, high = (
            torch.quantile(score.float(), share, dim=1, keepdim=True) for share in (0.25, 0.75)
        )
        outliers = score > high + 1.5 * (high - low)
        number = outliers.sum(dim=1, keepdim=True)
        wanted = 2 * (ranks(score) < number).long()
        if self.spatial:
            # ⌊1/share⌋ = ⌊n/number⌋; no outlier would divide by zero and many make s zero.
            spacing = (population // number.clamp(min=1) // 3).clamp(min=1)
            places = torch.arange(population, device=score.device)[None]
            sampled = (places % spacing == 0) & (places < population - 1)
            wanted = torch.maximum(wanted, sampled.long())
        return wanted


def _score(inputs: MatchInput) -> torch.Tensor:
    assert inputs.score is not None
    return inputs.score.float()


class NeighbourSum(Aggregator):
    """x_i ← x_i + Σ a_j x_j over the nearest tokens j of each chosen i, before the projector.

    Chosen tokens are neighbours too, groups overlap, and every update reads the old x. The slot that
    other tokens flow into is the summary Σ a_j x_j over all that were not chosen, if there is one.
    Shares are those of the slot that the assignment names; neighbours of other slots leave no record.

    Attributes:
        neighbours: how many.
        normalize: `none` (the released code), or `mean`: (a_i x_i + Σ a_j x_j) / (a_i + Σ a_j), the
            paper's weighted average, and the mean for the summary.
        layer: encoder layer of the keys.
    """

    name = "neighbour-sum"
    source = "PruMerge, arXiv 2403.15388, section 3 (token supplement)"
    convex = False
    needs_score = True
    space = "vision"
    neighbours: int = Field(default=32, ge=0)
    normalize: Literal["none", "mean"] = "none"
    layer: int = -1

    def needs(self) -> Needs:
        return frozenset({Need.VISION_FEATURES, Need.VISION_KEYS.at(self.layer)})

    def read_encoder(self, vision: VisionView) -> torch.Tensor:
        return vision.keys(self.layer).flatten(1)

    def merge(self, inputs: MergeInput) -> Merged:
        if inputs.from_encoder is None or inputs.score is None:
            raise ConfigError(
                "neighbours are looked for among the keys of the vision encoder",
                field=f"aggregator {self.name!r}",
                remedy="run it on a model whose adapter offers the encoder, with a scorer",
            )
        weights = self._weights(
            inputs.from_encoder, inputs.score.float(), inputs.survivors, inputs.target
        )
        tokens = torch.matmul(weights, inputs.tokens.float()).to(inputs.tokens.dtype)
        # The weight of each token in the slot that the assignment names.
        flows = inputs.target.unsqueeze(1) == inputs.survivors.unsqueeze(-1)
        return Merged(tokens, torch.where(flows, weights, 0.0).sum(dim=1))

    def _weights(
        self,
        keys: torch.Tensor,
        score: torch.Tensor,
        survivors: torch.Tensor,
        target: torch.Tensor,
    ) -> torch.Tensor:
        """`[G, k, n]` weight of each token in each survivor."""
        population = score.shape[1]
        places = torch.arange(population, device=score.device)
        own = (survivors.unsqueeze(-1) == places).float()
        near = cosine(rows(keys, survivors), keys) - EXCLUDED * own
        order = descending(near.flatten(0, 1))[:, : min(self.neighbours, population - 1)]
        around = flags(order, population).view_as(near).float()
        others = around * score.unsqueeze(1)
        weights = own + others if self.normalize == "none" else own * score.unsqueeze(1) + others
        flows = (target.unsqueeze(1) == survivors.unsqueeze(-1)).float()
        summary = flows.sum(dim=-1, keepdim=True) > 1
        weights = torch.where(summary, flows * score.unsqueeze(1), weights)
        if self.normalize == "mean":
            total = weights.sum(dim=-1, keepdim=True)
            # Where all weights are 0 the survivor stays as it is.
            empty = total == 0
            weights = torch.where(empty, own, weights / torch.where(empty, 1.0, total))
        return weights


def _preset(name: str, spatial: bool, retention: float) -> PipelineSpec:
    return PipelineSpec(
        name=name,
        source="Shang et al., ICCV 2025, arXiv 2403.15388",
        partitioner="whole",
        scorer={"name": "class-attention", "layer": -1, "heads": "joint"},
        matcher={"name": "class-outliers", "spatial": True} if spatial else "class-outliers",
        aggregator="neighbour-sum",
        positions="renumber-contiguous",
        schedule=Recipe(retention=retention, after_layer=0, windows=(None,)),
    )


PRUMERGE = _preset("prumerge", spatial=False, retention=32 / 576)
"""The paper's mean: 5.5 % of the tokens, 32 of 576."""
PRUMERGE_PLUS = _preset("prumerge-plus", spatial=True, retention=0.25)
"""The paper's mean: a quarter of the tokens."""

PRESETS = (PRUMERGE, PRUMERGE_PLUS)
