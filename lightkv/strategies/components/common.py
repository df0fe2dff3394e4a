"""Components of no single method: windows, uniform scores, top-k, drop, weighted mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch

from lightkv.core.contracts import (
    PROTECTED,
    Aggregator,
    Matcher,
    MatchInput,
    Merged,
    MergeInput,
    Partition,
    Partitioner,
    PositionInput,
    PositionPolicy,
    ScoreInput,
    Scorer,
    WindowSpec,
)
from lightkv.core.layout import Groups, SampleLayout
from lightkv.strategies.components.magnitude import power_of_two
from lightkv.strategies.components.windows import one_band

CHUNK = 1024
"""Columns of the hidden width that are upcast to float32 at a time."""


# -- partitioners -----------------------------------------------------------------------------


class Whole(Partitioner):
    """One window over each view, image or sample; separators (newlines) stay.

    Attributes:
        scope: what one window covers. Windows over more than a view suit methods that drop; to
            merge tokens of different pictures makes no sense, so `view` is the default.
    """

    name = "whole"
    scope: Literal["view", "image", "sample"] = "view"

    def partition(self, sample: SampleLayout, groups: Groups, windows: WindowSpec) -> Partition:
        tokens = sample.tokens
        label = {
            "view": tokens.view,
            "image": tokens.image,
            "sample": np.zeros_like(tokens.view),
        }[self.scope]
        label = np.where(tokens.separator, PROTECTED, label)
        bands = tuple(one_band(v) if self.scope == "view" else None for v in sample.views)
        return Partition(label, bands=bands)


# -- scorers ----------------------------------------------------------------------------------


class Uniform(Scorer):
    """ξ = 1 for every token: the plain mean."""

    name = "uniform"

    def score(self, inputs: ScoreInput) -> torch.Tensor:
        return torch.ones_like(inputs.size)


class Size(Scorer):
    """ξ = number of original tokens that a token holds."""

    name = "size"
    source = "ToMe, arXiv 2210.09461, section 3 (tracking token size)"

    def score(self, inputs: ScoreInput) -> torch.Tensor:
        return inputs.size


# -- matchers ---------------------------------------------------------------------------------


class KeepAll(Matcher):
    """Every token survives: the identity, for tests and ablations."""

    name = "keep-all"

    def keep(self, population: int, ratio: float) -> int:
        return population

    def match(self, inputs: MatchInput) -> torch.Tensor:
        groups, population = inputs.tokens.shape[:2]
        return torch.arange(population, device=inputs.tokens.device).expand(groups, -1)


class TopK(Matcher):
    """Keeps the tokens of largest importance, lower index first among equals; drops the rest.

    Attributes:
        rounding: of the number kept, n·(1 − ρ): `round` (half to even), `floor` or `ceil`.
    """

    name = "top-k"
    needs_score = True
    drops = True
    rounding: Literal["round", "floor", "ceil"] = "ceil"

    def keep(self, population: int, ratio: float) -> int:
        kept = round(population * (1.0 - ratio), 6)
        rule: dict[str, Callable[[float], int]] = {
            "round": round,
            "floor": lambda x: int(np.floor(x)),
            "ceil": lambda x: int(np.ceil(x)),
        }
        return rule[self.rounding](kept)

    def match(self, inputs: MatchInput) -> torch.Tensor:
        assert inputs.score is not None
        order = torch.sort(inputs.score, dim=-1, descending=True, stable=True).indices
        target = torch.full_like(order, -1)
        chosen = order[:, : inputs.keep]
        return target.scatter(1, chosen, chosen)


# -- aggregators ------------------------------------------------------------------------------


class Drop(Aggregator):
    """Survivors stay as they are; everything else is gone."""

    name = "drop"

    def merge(self, inputs: MergeInput) -> Merged:
        places = torch.arange(inputs.target.shape[1], device=inputs.target.device)
        return Merged(None, (inputs.target == places).float())


class WeightedMean(Aggregator):
    """x_s ← Σ w_i x_i / Σ w_i over the tokens of slot s, the survivor included, in float32.

    A survivor that nobody joined is unchanged bit for bit. Where all weights of a slot are 0 its
    mean is plain.

    Attributes:
        weights: `score` (importances ξ), `size` (tokens held so far) or `uniform`.
    """

    name = "weighted-mean"
    source = "LightKV, arXiv 2605.00789, message passing; ToMe, arXiv 2210.09461, with sizes"
    weights: Literal["score", "size", "uniform"] = "score"

    @property
    def needs_score(self) -> bool:  # type: ignore[override]
        return self.weights == "score"

    def merge(self, inputs: MergeInput) -> Merged:
        share = slot_shares(inputs, self._weights(inputs))
        return Merged(weighted_sum(inputs, share), share)

    def _weights(self, inputs: MergeInput) -> torch.Tensor:
        if self.weights == "size":
            return inputs.size
        if self.weights == "uniform":
            return torch.ones_like(inputs.size)
        assert inputs.score is not None, "a stage without a scorer is refused (needs_score)"
        return inputs.score


def slot_shares(inputs: MergeInput, weights: torch.Tensor) -> torch.Tensor:
    """`[G, n]` weights normalised in each slot; 0 for dropped tokens."""
    flows = (inputs.target >= 0).float()
    target = inputs.target.clamp(min=0)
    weights = weights.float()
    # Large weights are brought down together, or their sum might be infinite.
    weights = weights * power_of_two(weights.amax(dim=1, keepdim=True)).clamp(max=1.0) * flows
    total = torch.zeros_like(weights).scatter_add(1, target, weights).gather(1, target)
    count = torch.zeros_like(weights).scatter_add(1, target, flows).gather(1, target)
    plain = flows / count.clamp(min=1.0)
    # Not `total > 0`: a NaN must spread to its slot and not turn into a plain mean.
    empty = total == 0
    return torch.where(empty, plain, weights / torch.where(empty, 1.0, total))


def slot_numbers(inputs: MergeInput) -> torch.Tensor:
    """`[G, n]` number of each token's slot among the k survivors (any number if it is dropped)."""
    survivors = inputs.survivors
    places = torch.arange(survivors.shape[1], device=survivors.device).expand_as(survivors)
    slot = torch.zeros_like(inputs.target).scatter(1, survivors, places)
    return slot.gather(1, inputs.target.clamp(min=0))


def weighted_sum(inputs: MergeInput, share: torch.Tensor) -> torch.Tensor:
    """`[G, k, D]` Σ share · x over the tokens of each slot, in float32, in blocks of columns."""
    groups, _, width = inputs.tokens.shape
    keep = inputs.survivors.shape[1]
    first_slot = torch.arange(groups, device=share.device)[:, None] * keep
    # One list of rows and one index for each row: measured to be 2 to 4 times as fast on a CPU as
    # scatter_add with an index for each number, and 4 to 10 times as a product with a share matrix.
    slot = (slot_numbers(inputs) + first_slot).flatten()
    rows, share = inputs.tokens.flatten(0, 1), share.flatten().unsqueeze(-1)
    total = rows.new_empty(groups * keep, width)
    for first in range(0, width, CHUNK):
        block = rows[:, first : first + CHUNK].float() * share
        sums = block.new_zeros(groups * keep, block.shape[-1])
        total[:, first : first + CHUNK] = sums.index_add_(0, slot, block)
    return total.view(groups, keep, width)


# -- position policies ------------------------------------------------------------------------


class Keep(PositionPolicy):
    """Survivors keep their own rotary position; gaps remain."""

    name = "keep"

    def positions(self, inputs: PositionInput) -> None:
        return None


class Renumber(PositionPolicy):
    """Contiguous positions after each stage, from the position of the row's first token on.

    That is 0 … L′ − 1 in a first turn (1 … L′ where a family counts from 1); a later turn begins
    where it would have begun. Decoding goes on at the original length.
    """

    name = "renumber"
    source = "LightKV's released code; PyramidDrop, arXiv 2410.17247"

    def positions(self, inputs: PositionInput) -> torch.Tensor:
        axes = inputs.positions.shape[0]
        length = inputs.kept.shape[1]
        places = torch.arange(length, device=inputs.kept.device)[None]
        rank = (places - inputs.pads[:, None]).clamp(min=0)
        first = inputs.old_pads[:, None].clamp(max=inputs.positions.shape[2] - 1)
        return inputs.positions.gather(2, first.expand(axes, -1, -1)) + rank


class RenumberContiguous(Renumber):
    """As `renumber`, and generated tokens follow the compressed prompt of each layer."""

    name = "renumber-contiguous"
    source = "PyramidDrop, arXiv 2410.17247"
    decode = "contiguous"


class Barycentric(PositionPolicy):
    """A survivor stands at the weighted mean position of its group (fractions are legal)."""

    name = "barycentric"

    def positions(self, inputs: PositionInput) -> torch.Tensor:
        axes, batch, _ = inputs.positions.shape
        new_length = inputs.kept.shape[1]
        old = inputs.positions.reshape(axes, -1).float()
        moved = inputs.positions.gather(2, inputs.kept.expand(axes, -1, -1)).float()
        slots = inputs.vision.numel()
        # Dropped tokens go to a spare column, so this also holds where nothing is left.
        slot = torch.where(inputs.slot >= 0, inputs.slot, slots)
        mass = old.new_zeros(slots + 1).index_add(0, slot, inputs.share)
        mean = old.new_zeros(axes, slots + 1)
        mean = mean.index_add(1, slot, old[:, inputs.before] * inputs.share)
        mean = (mean / mass.clamp(min=1e-12))[:, :slots]
        flat = moved.reshape(axes, batch * new_length)
        return flat.index_copy(1, inputs.vision, mean).view(axes, batch, new_length)
