"""VisPruner: half of the budget by class attention, the rest by removing duplicates in rounds.

Zhang et al., "Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in
VLMs" (ICCV 2025, arXiv 2412.01818); Theia-4869/VisPruner. ⌊T·r⌋ tokens are the most attended ones. The
others stand in falling attention; in each round even ranks A meet odd ranks B, and the tokens of A
that are most similar to some token of B go, at most 8. The released code fails on rounds with an odd
number of tokens (it takes the size of B for that of A); here A has ⌈R/2⌉, which is the same where the
number is even.
"""

from __future__ import annotations

import torch
from pydantic import Field

from lightkv.core.contracts import Matcher, MatchInput
from lightkv.core.encoder import VisionView
from lightkv.core.errors import ConfigError
from lightkv.core.needs import Need
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe
from lightkv.strategies.components.selection import descending, kept_only, rounded_keep, rows
from lightkv.strategies.components.similarity import cosine


class Deduplicate(Matcher):
    """Keeps ⌊T·important⌋ tokens by importance, and T − that by removing duplicates in rounds.

    The number of rounds follows from the population alone. Cosines are those of the features that
    enter the projector.

    Attributes:
        important: share r of the survivors that importance decides.
        step: most tokens that a round removes.
    """

    name = "deduplicate"
    source = "VisPruner, arXiv 2412.01818, section 3"
    needs_score = True
    requires = frozenset({Need.VISION_FEATURES})
    important: float = Field(default=0.5, ge=0.0, le=1.0)
    step: int = Field(default=8, ge=1)

    def keep(self, population: int, ratio: float) -> int:
        return rounded_keep(population, ratio, "round")

    def read_encoder(self, vision: VisionView) -> torch.Tensor:
        return vision.features()

    def match(self, inputs: MatchInput) -> torch.Tensor:
        if inputs.score is None or inputs.from_encoder is None:
            raise ConfigError(
                "duplicates are looked for among the features of the vision encoder",
                field=f"matcher {self.name!r}",
                remedy="run it on a model whose adapter offers the encoder, with a scorer",
            )
        population = inputs.tokens.shape[1]
        order = descending(inputs.score)
        first = int(inputs.keep * self.important)
        rest, diverse = order[:, first:], inputs.keep - first
        # With nothing to keep there is nothing to compare.
        rest = rest[:, :0] if not diverse else self._thinned(inputs.from_encoder, rest, diverse)
        return kept_only(torch.cat([order[:, :first], rest], dim=1), population)

    def _thinned(self, features: torch.Tensor, rest: torch.Tensor, keep: int) -> torch.Tensor:
        """`[G, keep]` of the tokens `rest` `[G, R]`, which come in falling importance."""
        while (length := rest.shape[1]) > keep:
            even, odd = rest[:, 0::2], rest[:, 1::2]
            gone = min(self.step, length - keep, even.shape[1])
            similar = cosine(rows(features, even), rows(features, odd)).amax(dim=-1)
            rest = torch.cat([even.gather(1, descending(similar)[:, gone:]), odd], dim=1)
        return rest


PRESET = PipelineSpec(
    name="vispruner",
    source="Zhang et al., ICCV 2025, arXiv 2412.01818",
    partitioner="whole",
    scorer="class-attention",
    matcher="deduplicate",
    aggregator="drop",
    positions="renumber-contiguous",
    # 128 of 576 tokens, the first of the usual settings.
    schedule=Recipe(retention=128 / 576, after_layer=0, windows=(None,)),
)
