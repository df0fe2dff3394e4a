"""The authors' released LightKV module in its quirks (howtoosee/LightKV).

What differs from `lightkv`:

* windows lie on a pseudo-square: n tokens are laid row by row on the next larger square and cut
  into w × w parts, the first ones one longer; survivors are laid out anew at every stage;
* a stage is skipped if any image of the prompt has fewer than 8·w² tokens;
* ⌊ρ·n⌋ is computed in float32;
* positions are renumbered 0 … L′ − 1 after each stage, decoding goes on at the original length.

Not reproduced: random numbers in place of attention and the non-causal first stage layer of the
released LLaVA decoder. The released scripts name layer *indices*: `Schedule.from_release`.
"""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field

from lightkv.core.contracts import PROTECTED, Partition, Partitioner, WindowSpec
from lightkv.core.errors import ConfigError
from lightkv.core.layout import Groups, IntArray, SampleLayout
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe
from lightkv.strategies.components.windows import even_bands


class PseudoSquare(Partitioner):
    """Windows on the next larger square, laid out anew from the current tokens of each image.

    Attributes:
        threshold: a stage with w windows per side is skipped if any image has fewer than
            `threshold · w²` tokens.
    """

    name = "pseudo-square"
    source = "howtoosee/LightKV, released module"
    threshold: int = Field(default=8, ge=0)

    def partition(self, sample: SampleLayout, groups: Groups, windows: WindowSpec) -> Partition:
        if not isinstance(windows, int):
            raise ConfigError(
                "the released module has windows per side of one square only",
                field="windows",
                value=windows,
                remedy="use a number such as 4, or the partitioner 'windows'",
            )
        if "audio" in sample.modalities:
            raise ConfigError(
                "the released module cuts a square of pictures, and audio has no rows and columns",
                field="windows",
                value=windows,
                remedy="use the preset 'lightkv', whose windows of audio are over time, or leave audio "
                "as it is: retention={'image': 0.55}",
            )
        # The coarsest groups that stay known after windows by rank; none of them spans images.
        image = sample.tokens.image
        counts = groups.totals(image, int(image.max()) + 1 if image.size else 0)
        if counts.size and counts.min() < self.threshold * windows**2:
            label = np.full(int(counts.sum()), PROTECTED, dtype=np.int64)
        else:
            parts = [pseudo_square_labels(int(n), windows) for n in counts]
            parts = [part + i * windows**2 for i, part in enumerate(parts)]
            label = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
        return Partition(label, by="rank", known=image)


def pseudo_square_labels(count: int, windows: int) -> IntArray:
    """`[count]` window of each token when laid row by row on a square of side ⌈√count⌉."""
    side = math.isqrt(count - 1) + 1 if count else 0
    bands = even_bands(side, windows)
    grid: IntArray = bands[:, None] * windows + bands[None, :]
    return grid.reshape(-1)[:count]


PRESET = PipelineSpec(
    name="lightkv-release",
    source="howtoosee/LightKV (released module), arXiv 2605.00789",
    partitioner="pseudo-square",
    scorer="prompt-attention",
    matcher={"name": "bipartite", "single_precision_ratio": True},
    aggregator="weighted-mean",
    positions="renumber",
    schedule=Recipe(windows=(4, 2, 1), ratio=0.5),
)
