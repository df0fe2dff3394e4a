"""Scorers around other scorers, for mixing: floors, sums, products, another start.

A wrapper's `of` holds another component as a name or `{name: …, parameter: …}`. What the inner one needs
of model and encoder is passed on to it. Not of a paper; each is a few lines over the inner component.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, Field

from lightkv.core.attention import AttentionView
from lightkv.core.contracts import EmbeddingsInput, ScoreInput, Scorer
from lightkv.core.encoder import VisionView
from lightkv.core.errors import ConfigError
from lightkv.core.needs import Needs
from lightkv.core.plugins import build_component, checked_spec
from lightkv.core.sizes import Flops, StageSizes
from lightkv.core.stage.checks import blamed, check_score
from lightkv.core.stage.stage import reads_attention, reads_embeddings, reads_encoder
from lightkv.strategies.components.magnitude import power_of_two
from lightkv.strategies.components.matcher_wrappers import ComponentSpec

ScorerSpec = Annotated[ComponentSpec, BeforeValidator(partial(checked_spec, "scorer"))]
"""A scorer as a field of another one; it is known to build."""
Reading = torch.Tensor | None
Which = Callable[[Scorer], bool]


class ScorerWrapper(Scorer):
    """A scorer over others: passes on what they need and hands each what it read.

    What several inner scorers read travels side by side: `[K, B, N]` from attention, `[V₀, K]` from
    the encoder, `[K, B, P]` from the embeddings. What one alone reads travels as it is.
    """

    def specs(self) -> Sequence[ComponentSpec]:
        """The inner scorers as they were given."""
        raise NotImplementedError

    def mix(self, scores: list[torch.Tensor], inputs: ScoreInput) -> torch.Tensor:
        """`[V]` from the importances `[V]` of each inner scorer."""
        raise NotImplementedError

    @cached_property
    def inner(self) -> tuple[Scorer, ...]:
        """The inner scorers."""
        built = [build_component("scorer", spec) for spec in self.specs()]
        return tuple(scorer for scorer in built if isinstance(scorer, Scorer))

    @property
    def needs_prompt(self) -> bool:  # type: ignore[override]
        return any(scorer.needs_prompt for scorer in self.inner)

    def needs(self) -> Needs:
        return Needs().union(*(scorer.needs() for scorer in self.inner))

    def flops(self, sizes: StageSizes) -> Flops:
        return sum((scorer.flops(sizes) for scorer in self.inner), Flops())

    def read_embeddings(self, inputs: EmbeddingsInput) -> torch.Tensor | None:
        found = [each.read_embeddings(inputs) for each in self.inner if reads_embeddings(each)]
        return self._together(found, reads_embeddings, 0)

    def read_encoder(self, vision: VisionView) -> torch.Tensor | None:
        found = [each.read_encoder(vision) for each in self.inner if reads_encoder(each)]
        return self._together(found, reads_encoder, -1)

    def read_attention(self, attention: AttentionView) -> torch.Tensor | None:
        given, found = attention.from_embeddings, []
        parts = self._apart(given, reads_embeddings, 0)
        try:
            for scorer, part in zip(self.inner, parts, strict=True):
                attention.from_embeddings = part
                if reads_attention(scorer):
                    found.append(scorer.read_attention(attention))
        finally:
            attention.from_embeddings = given
        return self._together(found, reads_attention, -1)

    def score(self, inputs: ScoreInput) -> torch.Tensor:
        attention = self._apart(inputs.from_attention, reads_attention, -1)
        encoder = self._apart(inputs.from_encoder, reads_encoder, -1)
        scores = [
            _score(scorer, replace(inputs, from_attention=one, from_encoder=other))
            for scorer, one, other in zip(self.inner, attention, encoder, strict=True)
        ]
        return self.mix(scores, inputs)

    def _together(self, found: list[torch.Tensor | None], which: Which, dim: int) -> Reading:
        """What the inner scorers of `which` read, in one tensor."""
        there = [tensor for tensor in found if tensor is not None]
        if len(there) < len(found):
            return None
        counts = [_tensors(scorer, which) for scorer in self.inner if which(scorer)]
        if sum(counts) < 2:
            return there[0] if there else None
        stacks = [
            tensor.unsqueeze(dim) if count == 1 else tensor
            for tensor, count in zip(there, counts, strict=True)
        ]
        if len({tensor.select(dim, 0).shape for tensor in stacks}) > 1:
            raise ConfigError(
                "the inner scorers read tensors of different shapes, which cannot travel together",
                field=f"scorer {self.name!r}",
                value=[scorer.name for scorer in self.inner],
                remedy="combine scorers that each give one value for a position",
            )
        return torch.cat(stacks, dim)

    def _apart(self, tensor: Reading, which: Which, dim: int) -> list[Reading]:
        """The part of each inner scorer, None for those that have none."""
        counts = [_tensors(scorer, which) for scorer in self.inner]
        if tensor is None:
            return [None] * len(counts)
        if sum(counts) < 2:
            return [tensor if count else None for count in counts]
        parts = torch.split(tensor, counts, dim)
        found: list[Reading] = []
        for part, count in zip(parts, counts, strict=True):
            found.append(None if count == 0 else part.squeeze(dim) if count == 1 else part)
        return found


def _score(scorer: Scorer, inputs: ScoreInput) -> torch.Tensor:
    """`[V]` importances of an inner scorer."""
    with blamed(scorer, "score"):
        score = scorer.score(inputs)
    check_score(scorer, score, inputs.vision.numel(), inputs.hidden_states.device, inputs.context)
    return score.float()


def _tensors(scorer: Scorer, which: Which) -> int:
    """How many tensors a scorer's reading holds: wrappers bring those of all they wrap."""
    if isinstance(scorer, ScorerWrapper):
        return sum(_tensors(inner, which) for inner in scorer.inner)
    return int(which(scorer))


def sample_mean(score: torch.Tensor, inputs: ScoreInput) -> torch.Tensor:
    """`[V]` mean importance of the vision tokens in each token's sample."""
    samples = score.new_zeros(inputs.hidden_states.shape[0])
    scale = power_of_two(samples.scatter_reduce(0, inputs.sample, score.abs(), "amax"))
    near_one = score * scale.index_select(0, inputs.sample)
    total = samples.index_add(0, inputs.sample, near_one)
    count = samples.index_add(0, inputs.sample, torch.ones_like(score)).clamp(min=1.0)
    return (total / count / scale).index_select(0, inputs.sample)


def relative(score: torch.Tensor, inputs: ScoreInput) -> torch.Tensor:
    """`[V]` importances with mean 1 in each sample; ones where all are 0."""
    mean = sample_mean(score, inputs)
    return torch.where(mean == 0, 1.0, score / torch.where(mean == 0, 1.0, mean))


class Floor(ScorerWrapper):
    """ξ_i ← max(ξ_i, share · mean ξ of the sample): no token weighs next to nothing."""

    name = "floor"
    of: ScorerSpec
    share: float = Field(default=0.1, ge=0.0)

    def specs(self) -> Sequence[ComponentSpec]:
        return [self.of]

    def mix(self, scores: list[torch.Tensor], inputs: ScoreInput) -> torch.Tensor:
        return torch.maximum(scores[0], self.share * sample_mean(scores[0], inputs))


class Several(ScorerWrapper):
    """A scorer over a list of others, each normalised to mean 1 in a sample."""

    of: tuple[ScorerSpec, ...] = Field(min_length=2)

    def specs(self) -> Sequence[ComponentSpec]:
        return self.of


class Product(Several):
    """ξ = Π of the inner importances, each divided by its mean in the sample."""

    name = "product"

    def mix(self, scores: list[torch.Tensor], inputs: ScoreInput) -> torch.Tensor:
        total = torch.ones_like(scores[0])
        for score in scores:
            total = total * relative(score, inputs)
        return total


class Total(Several):
    """ξ = Σ weight · inner importance, each divided by its mean in the sample.

    Attributes:
        weights: one for each inner scorer, ones if None.
    """

    name = "sum"
    weights: tuple[float, ...] | None = None

    def model_post_init(self, context: Any) -> None:
        weights = self.weights
        if weights is not None and (len(weights) != len(self.of) or min(weights) < 0):
            raise ConfigError(
                f"{len(self.of)} scorers need as many weights of 0 or more",
                field=f"scorer {self.name!r}, weights",
                value=weights,
                remedy="give one for each, or none for equal ones",
            )

    def mix(self, scores: list[torch.Tensor], inputs: ScoreInput) -> torch.Tensor:
        weights = self.weights or (1.0,) * len(scores)
        total = torch.zeros_like(scores[0])
        for weight, score in zip(weights, scores, strict=True):
            total = total + weight * relative(score, inputs)
        return total


class WarmStart(ScorerWrapper):
    """The importance of `first` in the first `stages` stages, of `of` afterwards.

    Both read at every stage; where the schedule lists its stages, `overrides` cost less.
    """

    name = "warm-start"
    of: ScorerSpec
    first: ScorerSpec = "uniform"
    stages: int = Field(default=1, ge=0)

    def specs(self) -> Sequence[ComponentSpec]:
        return [self.of, self.first]

    def mix(self, scores: list[torch.Tensor], inputs: ScoreInput) -> torch.Tensor:
        return scores[1] if inputs.context.stage < self.stages else scores[0]
