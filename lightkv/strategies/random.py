"""Random eviction between decoder layers: the baseline that any method must beat."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lightkv.core.hookspecs import hookimpl
from lightkv.core.pipeline import PipelineSpec, Recipe
from lightkv.core.roles import Component, ScoreInput, Scorer


class Noise(Scorer):
    """Seeded uniform noise as importance.

    The noise of a token depends on the seed, on the number of the prefill in the session, on the
    stage (on the cache site: on the layer) and on the token's raster rank in its sample, so a sample
    is treated alike alone, in a batch and in every beam, and a session repeats exactly under the
    same seed.

    Attributes:
        per_layer: on the cache site every layer draws anew; else all evict the same tokens.
    """

    name = "noise"
    source = "Rand, a baseline of LightKV, arXiv 2605.00789"
    seed: int = 0
    per_layer: bool = True

    def score(self, inputs: ScoreInput) -> torch.Tensor:
        context = inputs.context
        seed = (self.seed * 1_000_003 + context.run) * 1_009 + context.stage
        if context.layer is not None and self.per_layer:
            seed = seed * 10_007 + context.layer + 1
        generator = torch.Generator().manual_seed(seed)
        noise = torch.rand(inputs.hidden_states.shape[1], generator=generator)
        # Made on the host, where it is the same for every device; the copy does not wait.
        return noise.to(inputs.vision.device, non_blocking=True).index_select(0, inputs.rank)


PRESET = PipelineSpec(
    name="random",
    source="baseline of arXiv 2605.00789",
    partitioner={"name": "whole", "scope": "sample"},
    scorer="noise",
    matcher="top-k",
    aggregator="drop",
    positions="keep",
    schedule=Recipe(windows=(None, None, None), ratio=0.5),
)


@hookimpl
def lightkv_components(register: Callable[[type[Component]], None]) -> None:
    register(Noise)


@hookimpl
def lightkv_presets(register: Callable[[PipelineSpec], None]) -> None:
    register(PRESET)
