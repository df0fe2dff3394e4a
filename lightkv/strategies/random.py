"""Chance in place of a method: random eviction, and random matching for ablations."""

from __future__ import annotations

from typing import Literal

import torch

from lightkv.core.contracts import MatchInput, ScoreInput, Scorer, StageContext
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe
from lightkv.core.strict import Seed
from lightkv.core.transfer import to_device
from lightkv.strategies.components.bipartite import Bipartite, merge_most_similar
from lightkv.strategies.components.selection import place_in_run


def seed_at(seed: int, context: StageContext) -> int:
    """What a stage of a prefill draws by."""
    return (seed * 1_000_003 + context.run) * 1_009 + context.stage


def drawn(seed: int, *shape: int) -> torch.Tensor:
    """Uniform numbers of [0, 1) on the host, the same for every device."""
    generator = torch.Generator().manual_seed(seed % 2**64)  # as many bits as it takes
    return torch.rand(shape, generator=generator, dtype=torch.float32)


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
    seed: Seed = 0
    per_layer: bool = True

    def score(self, inputs: ScoreInput) -> torch.Tensor:
        context = inputs.context
        seed = seed_at(self.seed, context)
        if context.layer is not None and self.per_layer:
            seed = seed * 10_007 + context.layer + 1
        noise = drawn(seed, inputs.hidden_states.shape[1])
        # The copy does not wait.
        return to_device(noise, inputs.vision.device).index_select(0, inputs.rank)


class RandomBipartite(Bipartite):
    """`bipartite` with chance in place of similarity: random even tokens join random odd ones.

    For ablations of matching; budgets are those of `bipartite`. What a window draws depends on the
    seed, on the number of the prefill in the session, on the stage (on the cache site: on the layer
    and round) and on the window's number in its sample, so a sample is treated alike alone and in
    a batch. Tokens of inner windows are not told apart.
    """

    name = "random-bipartite"
    source = "for ablations of LightKV, arXiv 2605.00789; not of a paper"
    knows_inner = False
    metric: Literal["hidden"] = "hidden"
    seed: Seed = 0

    def match(self, inputs: MatchInput) -> torch.Tensor:
        groups, population = inputs.tokens.shape[:2]
        device, context = inputs.tokens.device, inputs.context
        seed = seed_at(self.seed, context)
        if context.layer is not None:
            seed = (seed * 10_007 + context.layer + 1) * 101 + context.round
        sources, destinations = (population + 1) // 2, population // 2
        # As many draws as there are windows in the batch; the first of a sample take the first.
        row = torch.zeros(groups, dtype=torch.long, device=device)
        number = place_in_run(row if inputs.row is None else inputs.row)
        chances = to_device(drawn(seed, groups, 2 * sources), device).index_select(0, number)
        best, chance = chances[:, :sources], chances[:, sources:]
        partner = (chance * destinations).long().clamp(max=max(destinations - 1, 0))
        return merge_most_similar(best, partner, population, inputs.keep)


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
