"""PyramidDrop: drop vision tokens in several steps, ranked by the last instruction token.

Xing et al., "PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy
Reduction" (CVPR 2025, arXiv 2410.17247); code: Cooperx521/PyramidDrop. Stages after 1/4, 1/2 and 3/4 of
the layers keep ⌊half⌋ of the current tokens (retention 0.469); `retention=` moves what they keep, not
where they stand. Score: attention of the last token, mean over heads, with query and key of the layer
*after* the stage (released code). `scorer="last-token"` takes the layer before the stage (paper).
"""

from __future__ import annotations

from lightkv.core.needs import Need
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe
from lightkv.strategies.components.attention_scorers import LastToken


class NextLastToken(LastToken):
    """ξ_i = mean over heads of the last token's attention to token i in the layer after the stage."""

    name = "next-last-token"
    source = "PyramidDrop, arXiv 2410.17247 (released code: projections of the next layer)"
    requires = frozenset({Need.NEXT_LAST_ROW})


PRESET = PipelineSpec(
    name="pyramiddrop",
    source="Xing et al., CVPR 2025, arXiv 2410.17247",
    partitioner={"name": "whole", "scope": "sample"},
    scorer="next-last-token",
    matcher={"name": "top-k", "rounding": "floor"},
    aggregator="drop",
    positions="renumber-contiguous",
    schedule=Recipe(windows=(None,), depths=(0.25, 0.5, 0.75), ratios=(0.5, 0.5, 0.5)),
)
