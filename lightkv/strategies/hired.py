"""HiRED: class attention shares a fixed budget out among the tiles of a high-resolution image.

Arif et al., "HiRED: Attention-Guided Token Dropping for Efficient Inference of High-Resolution
Vision-Language Models" (AAAI 2025, arXiv 2408.10945); hasanar1f/HiRED. Of K tokens the base view gets
⌊αK⌋ (α = ½). The tiles share the rest by the attention that the class token of the base view pays, in
the first encoder layer, to what each tile shows. In every part the tokens of the largest class
attention in layer −2 stay. LLaVA-v1.5 has no tiles: there it is top-k.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from lightkv.core.contracts import Matcher, MatchInput
from lightkv.core.encoder import VisionView
from lightkv.core.errors import ConfigError
from lightkv.core.needs import Need, Needs
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe
from lightkv.strategies.components.budgets import exact_shares, shared_out
from lightkv.strategies.components.selection import (
    best,
    kept_only,
    ranks,
    ranks_inside,
    rounded_keep,
)


class TileBudget(Matcher):
    """Keeps the most important tokens of each part of an image, within the part's budget.

    Wants the inner windows of the partitioner `tiles`; without them it is top-k. A budget that a
    part cannot use, and what `largest` leaves over, goes to the most important tokens of all.

    Attributes:
        alpha: share of the budget for the base view.
        layer: encoder layer whose class attention shares the budget out.
        measure: a tile's claim: the attention `mass` that its region of the base view gets (paper),
            or the `count` of the base view's top ⌊n(1 − α)⌋ tokens that lie there (code).
        remainders: fractions of a token go to the `largest` ones, or are `lost` (code): then fewer
            tokens than the budget stay, and how many has to be read from the device.
    """

    name = "tile-budget"
    source = "HiRED, arXiv 2408.10945, section 4"
    needs_score = True
    knows_inner = True
    alpha: float = Field(default=0.5, ge=0.0, le=1.0)
    layer: int = 0
    measure: Literal["mass", "count"] = "mass"
    remainders: Literal["largest", "lost"] = "largest"

    @property
    def dynamic(self) -> bool:
        return self.remainders == "lost"

    def needs(self) -> Needs:
        return frozenset({Need.VISION_CLS.at(self.layer)})

    def keep(self, population: int, ratio: float) -> int:
        return rounded_keep(population, ratio, "floor")

    def read_encoder(self, vision: VisionView) -> torch.Tensor:
        return vision.cls_attention(self.layer).sum(dim=1, keepdim=True)

    def count(self, inputs: MatchInput) -> torch.Tensor:
        return self._granted(inputs).sum(dim=1).clamp(max=inputs.keep)

    def match(self, inputs: MatchInput) -> torch.Tensor:
        assert inputs.score is not None
        granted = self._granted(inputs)
        return kept_only(best(inputs.score, granted, inputs.keep), granted.shape[1])

    def _granted(self, inputs: MatchInput) -> torch.Tensor:
        """`[G, n]` 1 at the tokens that the budgets of their parts grant."""
        if inputs.score is None or inputs.from_encoder is None:
            raise ConfigError(
                "budgets follow the class attention of the vision encoder",
                field=f"matcher {self.name!r}",
                remedy="run it on a model whose adapter offers the encoder, with a scorer",
            )
        claim, score = inputs.from_encoder[..., 0].float(), inputs.score
        inner = torch.zeros_like(score, dtype=torch.long) if inputs.inner is None else inputs.inner
        population = score.shape[1]
        # A dynamic budget has lowered `inputs.keep`; the shares are those of the whole.
        total = self.keep(population, inputs.context.ratio) if self.dynamic else inputs.keep
        whole, base = inner == 0, (inner > 0) & (inner % 2 == 0)
        # The number of the tile that a token shows, in the base view or by itself.
        tile = (inner // 2 - 1).clamp(min=0, max=population - 1)
        full = base.sum(dim=1, keepdim=True).clamp(max=int(total * self.alpha))
        quota = self._quotas(claim, tile, base, total - full)
        limit = torch.where(base, full, quota.gather(1, tile))
        limit = torch.where(whole, total, limit)
        part = torch.where(base, 0, tile + 1)
        return (ranks_inside(score, part) < limit).long()

    def _quotas(
        self, claim: torch.Tensor, tile: torch.Tensor, base: torch.Tensor, share: torch.Tensor
    ) -> torch.Tensor:
        """`[G, n]` tokens granted to tile t at place t, of `share` `[G, 1]`.

        `claim` `[G, n]` counts at the base view's tokens only, where `tile` is what they show.
        """
        if self.measure == "count":
            # Tokens outside the base view come after all of it.
            top = ranks(claim.masked_fill(~base, -torch.inf))
            whole = base.sum(dim=1, keepdim=True).float()
            wanted = (whole * (1.0 - self.alpha) + 1e-4).floor()
            claim = (top < wanted).float()
        claim = torch.where(base, claim, 0.0)
        claims = torch.zeros_like(claim).scatter_add(1, tile, claim)
        if self.remainders == "largest":
            return shared_out(share, claims)
        return exact_shares(share, claims).floor().long()


PRESET = PipelineSpec(
    name="hired",
    source="Arif et al., AAAI 2025, arXiv 2408.10945",
    partitioner="tiles",
    scorer={"name": "class-attention", "heads": "sum"},
    matcher="tile-budget",
    aggregator="drop",
    positions="renumber-contiguous",
    schedule=Recipe(retention=0.2, after_layer=0, windows=(None,)),
)
