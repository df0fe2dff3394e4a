"""What the engine hands to components, and what it takes back: plain data, one class per call."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lightkv.core.attention import PromptIndex


@dataclass(frozen=True)
class StageContext:
    """What a component may know of where it runs.

    Attributes:
        after_layer: decoder layers that saw the tokens uncompressed by this stage.
        stage: number of the stage in the schedule, from 0.
        run: number of the prefill in the session, from 0 (varies seeded noise between runs).
        num_layers: decoder layers of the model, or None outside a model.
        ratio: share of the current vision tokens that this stage removes.
        layer: the layer whose cache is compressed, or None for a stage between layers. Tokens are
            then vectors of key and value.
        round: number of the round, where a stage on the cache takes several.
    """

    after_layer: int = 0
    stage: int = 0
    run: int = 0
    num_layers: int | None = None
    ratio: float = 0.0
    layer: int | None = None
    round: int = 0


@dataclass(frozen=True)
class ScoreInput:
    """What a scorer sees.

    Attributes:
        hidden_states: `[B, N, D]` at the stage.
        vision: `[V]` flat positions (`sample · N + position`) of the current vision tokens.
        rank: `[V]` raster rank of each of them among the vision tokens of its sample.
        size: `[V]` how many original tokens each one holds.
        observed: what `observe` returned, or None.
        context: where the stage runs.
        seen: `[V]` what `look` returned for these tokens, or None.
        window: `[V]` window of each token, numbered over the batch, or None outside a stage.
        counts: how many of the tokens each row of the batch has.
    """

    hidden_states: torch.Tensor
    vision: torch.Tensor
    rank: torch.Tensor
    size: torch.Tensor
    observed: torch.Tensor | None
    context: StageContext
    seen: torch.Tensor | None = None
    window: torch.Tensor | None = None
    counts: tuple[int, ...] = ()

    @property
    def sample(self) -> torch.Tensor:
        """`[V]` row of each token."""
        return self.vision // self.hidden_states.shape[1]


@dataclass(frozen=True)
class StartInput:
    """What enters the decoder.

    Attributes:
        hidden_states: `[B, N, D]` embeddings of text and vision.
        vision: `[B, N]` true at vision tokens.
        prompt: the other tokens.
        last_vision: `[B]` position of the last vision token of each row, −1 if it has none.
    """

    hidden_states: torch.Tensor
    vision: torch.Tensor
    prompt: PromptIndex
    last_vision: torch.Tensor


@dataclass(frozen=True)
class Surroundings:
    """The whole sequence around the windows, for matchers that compare with the text.

    Attributes:
        hidden_states: `[B, N, D]`.
        prompt: the positions that are not vision.
        observed: `[B, N, M]` what the matcher's `observe` returned, or None.
    """

    hidden_states: torch.Tensor
    prompt: PromptIndex
    observed: torch.Tensor | None


@dataclass(frozen=True)
class MatchInput:
    """A batch of windows of equal population.

    Attributes:
        tokens: `[G, n, D]` hidden states in raster order.
        keep: survivors that each window must have.
        score: `[G, n]` importances, or None if the pipeline has no scorer.
        size: `[G, n]` original tokens that each token holds.
        observed: `[G, n, M]` what the matcher's `observe` returned, gathered, or None.
        context: where the stage runs.
        seen: `[G, n, M]` what the matcher's `look` returned, gathered, or None.
        inner: `[G, n]` inner window of each token where windows share a budget, ascending, or None.
        row: `[G]` sample of each window.
        around: the sequence around, if `needs_surroundings`.
    """

    tokens: torch.Tensor
    keep: int
    score: torch.Tensor | None
    size: torch.Tensor
    observed: torch.Tensor | None
    context: StageContext
    seen: torch.Tensor | None = None
    inner: torch.Tensor | None = None
    row: torch.Tensor | None = None
    around: Surroundings | None = None


@dataclass(frozen=True)
class MergeInput:
    """Windows with their matching.

    Attributes:
        tokens: `[G, n, D]`.
        target: `[G, n]` as returned by the matcher.
        survivors: `[G, k]` in-window indices of the survivors, ascending.
        score: `[G, n]` importances or None.
        size: `[G, n]` original tokens that each token holds.
        context: where the stage runs.
        seen: `[G, n, M]` what the aggregator's `look` returned, gathered, or None.
    """

    tokens: torch.Tensor
    target: torch.Tensor
    survivors: torch.Tensor
    score: torch.Tensor | None
    size: torch.Tensor
    context: StageContext
    seen: torch.Tensor | None = None


@dataclass(frozen=True)
class Merged:
    """What an aggregator returns.

    Attributes:
        tokens: `[G, k, D]` the survivors, or None if they stay as they are.
        share: `[G, n]` share of each token in its survivor (0 if it leaves nothing behind).
    """

    tokens: torch.Tensor | None
    share: torch.Tensor


@dataclass(frozen=True)
class PositionInput:
    """Positions around a stage.

    Attributes:
        positions: `[A, B, N]` rotary positions before (A axes).
        kept: `[B, N′]` where each position of the new sequence was before.
        pads, old_pads: `[B]` left padding of the rows after and before the stage.
        vision: `[V′]` flat places of the survivors in the new batch.
        slot: `[V]` slot of each token; `share` `[V]` its share; `before` `[V]` its flat place
            before the stage.
    """

    positions: torch.Tensor
    kept: torch.Tensor
    pads: torch.Tensor
    old_pads: torch.Tensor
    vision: torch.Tensor
    slot: torch.Tensor
    share: torch.Tensor
    before: torch.Tensor
