"""HiPrune: objects by a middle layer of the encoder, what is next to them, and the rest by a deep layer.

Liu et al., "HiPrune: Training-Free Visual Token Pruning via Hierarchical Attention in Vision-Language
Models" (arXiv 2508.00553, ACL Findings 2026); Danielement321/HiPrune. Of N′ tokens round(α N′/5) are
anchors, the most attended in a middle ("object") layer: 9 of 24 in CLIP ViT-L, here a share of the
depth. The up to four cells around each anchor are buffers. Registers, the most attended of the others
in the output layer, fill the budget. α = 0.1.

Kept: the three kinds, their numbers and order. Not kept: attention averaged over all queries, which
the authors take of encoders without a class token; it would need the N² attention of each head. So
the class token's row counts, and encoders without one are refused. Neighbours are those of the grid;
the released code takes i ± 1 and i ± width, which leaves the picture at the ends of rows.
"""

from __future__ import annotations

import torch
from pydantic import Field

from lightkv.core.cells import Cells
from lightkv.core.contracts import Matcher, MatchInput
from lightkv.core.encoder import VisionView
from lightkv.core.errors import ConfigError
from lightkv.core.needs import Need, Needs
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe
from lightkv.strategies.components.frames import given_cells
from lightkv.strategies.components.selection import best, descending, flags, kept_only, rounded_keep


class AnchorsBuffersRegisters(Matcher):
    """Keeps anchors, the cells around them, and the most important of the others.

    Where anchors and buffers alone exceed the budget, the less important buffers go. Cells beyond the
    window are no neighbours, so windows over whole views suit it. Lower index first among equals.

    Attributes:
        alpha: share of the budget for anchors and buffers, five tokens each.
        layer: encoder layer that anchors are read in, counted, from the end, or a share of the depth.
    """

    name = "anchors-buffers-registers"
    source = "HiPrune, arXiv 2508.00553, section 4"
    needs_score = True
    needs_cells = True
    drops = True
    alpha: float = Field(default=0.1, ge=0.0, le=1.0)
    layer: int | float = 0.34

    def needs(self) -> Needs:
        return frozenset({Need.VISION_CLS.at(self.layer)})

    def keep(self, population: int, ratio: float) -> int:
        return rounded_keep(population, ratio, "round")

    def read_encoder(self, vision: VisionView) -> torch.Tensor:
        return vision.cls_attention(self.layer).mean(dim=1, keepdim=True)

    def match(self, inputs: MatchInput) -> torch.Tensor:
        if inputs.score is None or inputs.from_encoder is None:
            raise ConfigError(
                "anchors are read off a middle layer of the vision encoder",
                field=f"matcher {self.name!r}",
                remedy="run it on a model whose adapter offers the encoder, with a scorer",
            )
        population, keep = inputs.tokens.shape[1], inputs.keep
        count = min(population, round(keep * self.alpha / 5))
        anchors = descending(inputs.from_encoder[..., 0].float())[:, :count]
        preferred = 2 * flags(anchors, population)
        if count:
            preferred = torch.maximum(preferred, _around(anchors, given_cells(inputs)))
        return kept_only(best(inputs.score, preferred, keep), population)


def _around(anchors: torch.Tensor, cells: Cells) -> torch.Tensor:
    """`[G, n]` 1 at the tokens next to one of `anchors` `[G, a]`."""
    population = cells.place.shape[1]
    index = anchors.unsqueeze(-1).expand(-1, -1, 4)
    near = cells.neighbours().gather(1, index).flatten(1)
    # Missing neighbours fall on a place beyond the last, which is cut off.
    return flags(torch.where(near < 0, population, near), population + 1)[:, :population]


PRESET = PipelineSpec(
    name="hiprune",
    source="Liu et al., ACL Findings 2026, arXiv 2508.00553",
    partitioner="whole",
    scorer="class-attention",
    matcher="anchors-buffers-registers",
    aggregator="drop",
    positions="renumber-contiguous",
    # 192 of 576 tokens, the first of the published settings.
    schedule=Recipe(retention=192 / 576, after_layer=0, windows=(None,)),
)
