"""VScan: a global and a local scan of the encoder, merging, and a second stage within the decoder.

Zhang et al., "VScan: Rethinking Visual Token Reduction for Efficient Large Vision-Language Models"
(TMLR 2026, arXiv 2505.22654); Tencent/SelfEvolvingAgent, VScan. Before the decoder: half of the budget
are the tokens that the class token attends to in the output layer (global), half those that it attends
to in a shallow layer, as many in each window of the picture (local). Every other token is merged into
the most similar one kept, as a plain mean, before the projector. After half of the decoder's layers
the tokens that the last one attends to stay. 96 and then 32 of 576 tokens are the published "64".

Kept: both scans, merging, both stages and their proportion. Open: the paper does not say what happens
to a token that both scans choose (here the local scan looks among those that are left), and the
windows' number (4 × 4 here). Not kept: encoders without a class token, where the authors average
attention over all queries; those are refused.
"""

from __future__ import annotations

import torch
from pydantic import Field

from lightkv.core.contracts import Matcher, MatchInput
from lightkv.core.encoder import VisionView
from lightkv.core.errors import ConfigError
from lightkv.core.needs import Need, Needs
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe
from lightkv.strategies.components.selection import (
    best,
    descending,
    flags,
    kept_only,
    ranks_inside,
    rounded_keep,
    rows,
    unchosen,
)
from lightkv.strategies.components.similarity import most_similar


class GlobalLocal(Matcher):
    """Keeps the most important tokens of all and of each inner window; the others join the most similar.

    With K survivors ⌊K · local⌋ are local: the most attended of each inner window in `layer`, then
    the second ones, and so on; in the last round those of the largest attention. Lower index first
    among equals. Without inner windows the local scan is one of the whole window.

    Attributes:
        local: share of the survivors that the local scan chooses.
        layer: encoder layer of the local scan, counted, from the end, or a share of the depth.
    """

    name = "global-local"
    source = "VScan, arXiv 2505.22654, section 3.2"
    needs_score = True
    knows_inner = True
    local: float = Field(default=0.5, ge=0.0, le=1.0)
    layer: int | float = 0.25

    def needs(self) -> Needs:
        return frozenset({Need.VISION_CLS.at(self.layer), Need.VISION_FEATURES})

    def keep(self, population: int, ratio: float) -> int:
        return rounded_keep(population, ratio, "round")

    def read_encoder(self, vision: VisionView) -> torch.Tensor:
        """`[V₀, Dᵥ + 1]` the features, and the class token's attention in the shallow layer."""
        attention = vision.cls_attention(self.layer).mean(dim=1, keepdim=True)
        features = vision.features().float()
        return torch.cat([features, attention.to(features)], dim=1)

    def match(self, inputs: MatchInput) -> torch.Tensor:
        if inputs.score is None or inputs.from_encoder is None:
            raise ConfigError(
                "the local scan and the merging read the vision encoder",
                field=f"matcher {self.name!r}",
                remedy="run it on a model whose adapter offers the encoder, with a scorer",
            )
        population, keep = inputs.tokens.shape[1], inputs.keep
        features, shallow = inputs.from_encoder[..., :-1], inputs.from_encoder[..., -1]
        chosen = self._scanned(inputs.score, shallow, inputs.inner, keep)
        target = kept_only(chosen, population)
        if not 0 < keep < population:
            return target
        chosen = chosen.sort(dim=-1).values
        rest = unchosen(flags(chosen, population), population - keep)
        _, nearest = most_similar(rows(features, rest), rows(features, chosen))
        return target.scatter(1, rest, chosen.gather(1, nearest))

    def _scanned(
        self, deep: torch.Tensor, shallow: torch.Tensor, inner: torch.Tensor | None, keep: int
    ) -> torch.Tensor:
        """`[G, keep]` tokens that the two scans choose."""
        local, population = int(keep * self.local), deep.shape[1]
        everywhere = descending(deep)[:, : keep - local]
        window = torch.zeros_like(everywhere[:, :1]).expand_as(deep) if inner is None else inner
        taken = flags(everywhere, population) > 0
        # Those that are taken come last in their window, and behind all others.
        place = ranks_inside(shallow.masked_fill(taken, -torch.inf), window)
        place = torch.where(taken, population, place)
        return torch.cat([everywhere, best(shallow, -place, local)], dim=1)


PRESET = PipelineSpec(
    name="vscan",
    source="Zhang et al., TMLR 2026, arXiv 2505.22654",
    partitioner={"name": "windows", "budget": "view"},
    scorer="class-attention",
    matcher="global-local",
    aggregator={"name": "contextual", "combine": "mean"},
    positions="renumber-contiguous",
    # 96 and then 32 of 576 tokens, the published "64".
    schedule=Recipe(
        retention=64 / 576,
        windows=(4, None),
        depths=(0.0, 0.5),
        ratios=(1 - 96 / 576, 1 - 32 / 96),
        overrides=(
            {},
            {
                "partitioner": {"name": "whole", "scope": "sample"},
                "scorer": "last-token",
                "matcher": {"name": "top-k", "rounding": "round"},
                "aggregator": "drop",
            },
        ),
    ),
)
