"""FrameFusion: merge what stayed the same from frame to frame, then drop what is not attended to.

Fu et al., "FrameFusion: Combining Similarity and Importance for Video Token Reduction on Large
Vision Language Models" (ICCV 2025, arXiv 2501.01986); thu-nics/FrameFusion. Tokens at the same
place of adjacent frames are compared; those with cosine ≥ S = 0.6 merge into the token before, and
chains into their first one, by a plain mean. What the budget still has to lose goes by the
attention of the last query (code), mean over heads.

Kept: similarity of the same place only, merging before pruning, chains, the mean, the threshold, a
budget that holds. Not kept: the paper merges layer by layer from the first on, until fewer than a
tenth of the tokens are alike, and prunes in the layer after that; how many layers that takes
follows from values. Here both happen in one stage, after layer 2 as in FastV, whose attention says
what is important. To merge in several layers, list several stages with this matcher. The importance
of a group is the mean of its tokens'. A still picture has nothing to merge and is pruned by
importance alone, as in the paper.
"""

from __future__ import annotations

import torch
from pydantic import Field

from lightkv.core.contracts import Matcher, MatchInput
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe
from lightkv.core.sizes import Flops, StageSizes
from lightkv.strategies.components.frames import given_cells, in_time, paired_cosine
from lightkv.strategies.components.selection import Rounding, best, ranks, rounded_keep


class FrameFusion(Matcher):
    """Merges a token into the one before it at the same place, most alike first; prunes the rest.

    Only pairs with cosine ≥ `similarity` merge, and no more than the budget asks for. If that is not
    enough, the groups (and single tokens) of least mean importance are dropped. Lower index wins among
    equals.

    Attributes:
        similarity: S, the least cosine of a pair that merges.
        rounding: of the number kept.
    """

    name = "frame-fusion"
    source = "FrameFusion, arXiv 2501.01986, section 4"
    needs_score = True
    needs_cells = True
    similarity: float = Field(default=0.6, ge=-1.0, le=1.0)
    rounding: Rounding = "round"

    def keep(self, population: int, ratio: float) -> int:
        return rounded_keep(population, ratio, self.rounding)

    def match(self, inputs: MatchInput) -> torch.Tensor:
        assert inputs.score is not None
        cells = given_cells(inputs)
        population = inputs.tokens.shape[1]
        # Place by place, each in the order of time.
        order = torch.sort(in_time(cells), dim=-1, stable=True).indices
        spot = cells.spots.gather(1, order)
        alike = torch.full_like(spot, -2, dtype=torch.float32)
        near = paired_cosine(inputs.tokens.detach(), order[:, 1:], order[:, :-1])
        alike[:, 1:] = torch.where(spot[:, 1:] == spot[:, :-1], near, -2.0)
        joins = self._most_alike(alike, order, population - inputs.keep)
        places = torch.arange(population, device=order.device).expand_as(order)
        head = order.gather(1, torch.where(joins, 0, places).cummax(dim=1).values)
        head = torch.empty_like(head).scatter(1, order, head)
        groups = head == places
        kept = best(_mean_by(inputs.score.float(), head), groups.long(), inputs.keep)
        alive = torch.zeros_like(groups).scatter(1, kept, True)
        return torch.where(alive.gather(1, head), head, -1)

    def _most_alike(self, alike: torch.Tensor, order: torch.Tensor, most: int) -> torch.Tensor:
        """`[G, n]` the `most` pairs of largest cosine, by raster index among equals."""
        raster = torch.empty_like(alike).scatter(1, order, alike)
        return (alike >= self.similarity) & (alike > -2.0) & (ranks(raster).gather(1, order) < most)

    def flops(self, sizes: StageSizes) -> Flops:
        """Each token is compared with one other."""
        return Flops(other=6 * sizes.width * sizes.vision)


def _mean_by(score: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """`[G, n]` at each head the mean of `score` `[G, n]` over the tokens with that head."""
    total = torch.zeros_like(score).scatter_add(1, head, score)
    count = torch.zeros_like(score).scatter_add(1, head, torch.ones_like(score))
    return total / count.clamp(min=1.0)


PRESET = PipelineSpec(
    name="framefusion",
    source="Fu et al., ICCV 2025, arXiv 2501.01986",
    partitioner="whole",
    scorer="last-token",
    matcher="frame-fusion",
    aggregator={"name": "weighted-mean", "weights": "size"},
    positions="keep",
    schedule=Recipe(windows=(None,), after_layer=2),
)
