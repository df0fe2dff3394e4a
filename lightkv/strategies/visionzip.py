"""VisionZip: dominant tokens by class attention, contextual tokens by merging the rest.

Yang et al., "VisionZip: Longer is Better but Not Necessary in Vision Language Models" (CVPR 2025,
arXiv 2412.04467); dvlab-research/VisionZip. D tokens of the largest class attention stay as they are.
Of the others, every s-th in raster order is a target, C in all; the rest join the target of the most
similar key (mean over heads). The merge happens before the projector. The paper's settings 162 + 30,
108 + 20 and 54 + 10 are one proportion, 27 : 5.

The class token's own embedding, which the released code hands to the decoder as a further token and
counts in D, is not a vision token of the sequence here: D patches take its place.
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
from lightkv.strategies.components.aggregators import weighted_sum
from lightkv.strategies.components.selection import (
    descending,
    first_largest,
    flags,
    kept_only,
    rounded_keep,
    rows,
    unchosen,
)
from lightkv.strategies.components.similarity import cosine


class DominantContextual(Matcher):
    """Keeps D dominant tokens and C targets, which the other tokens join.

    Attributes:
        contextual: share of the survivors that are targets, C = round(share · kept).
        layer: encoder layer of the keys, negative from the end.
    """

    name = "dominant-contextual"
    source = "VisionZip, arXiv 2412.04467, section 3"
    needs_score = True
    contextual: float = Field(default=5 / 32, ge=0.0, le=1.0)
    layer: int = -2

    def needs(self) -> Needs:
        return frozenset({Need.VISION_KEYS.at(self.layer)})

    def keep(self, population: int, ratio: float) -> int:
        return rounded_keep(population, ratio, "round")

    def read_encoder(self, vision: VisionView) -> torch.Tensor:
        return vision.keys(self.layer).float().mean(dim=1)

    def match(self, inputs: MatchInput) -> torch.Tensor:
        if inputs.score is None or inputs.from_encoder is None:
            raise ConfigError(
                "tokens join the target of the most similar key of the vision encoder",
                field=f"matcher {self.name!r}",
                remedy="run it on a model whose adapter offers the encoder, with a scorer",
            )
        population, keep = inputs.tokens.shape[1], inputs.keep
        targets = round(keep * self.contextual)
        dominant = descending(inputs.score)[:, : keep - targets]
        target = kept_only(dominant, population)
        if not targets:
            return target
        others = population - dominant.shape[1]
        rest = unchosen(flags(dominant, population), others)
        chosen = rest[:, :: max(1, others // targets)][:, :targets]
        near = cosine(rows(inputs.from_encoder, rest), rows(inputs.from_encoder, chosen))
        joined = chosen.gather(1, first_largest(near))
        # Targets are written last: a target's nearest target may be an equal one before it.
        return target.scatter(1, rest, joined).scatter(1, chosen, chosen)


class Contextual(Aggregator):
    """A target becomes what joined it, before the projector; others stay.

    Attributes:
        combine: `sum`: x_target + the mean of those that joined (the released code; about twice the
            norm of an average). `mean`: the mean of target and joined tokens (the paper's merging).
    """

    name = "contextual"
    source = "VisionZip, arXiv 2412.04467, section 3 (contextual tokens merging)"
    convex = False
    space = "vision"
    requires = frozenset({Need.VISION_FEATURES})
    combine: Literal["sum", "mean"] = "sum"

    def merge(self, inputs: MergeInput) -> Merged:
        places = torch.arange(inputs.target.shape[1], device=inputs.target.device)
        alone = (inputs.target == places).float()
        flows = (inputs.target >= 0).float()
        joins = flows - alone
        target = inputs.target.clamp(min=0)
        count = torch.zeros_like(joins).scatter_add(1, target, joins).gather(1, target)
        if self.combine == "mean":
            share = flows / (1.0 + count)
        else:
            share = alone + joins / count.clamp(min=1.0)
        if not inputs.survivors.shape[1]:
            return Merged(None, share)
        return Merged(weighted_sum(inputs, share), share)


PRESET = PipelineSpec(
    name="visionzip",
    source="Yang et al., CVPR 2025, arXiv 2412.04467",
    partitioner="whole",
    scorer={"name": "class-attention", "heads": "sum"},
    matcher="dominant-contextual",
    aggregator="contextual",
    positions="renumber-contiguous",
    # 162 + 30 of 576 tokens, the paper's first setting.
    schedule=Recipe(retention=192 / 576, after_layer=0, windows=(None,)),
)
