"""Matchers around another matcher, for mixing: protect some tokens, gather what is dropped.

A wrapper's `of` holds another matcher as a name or `{name: …, parameter: …}`. Not of a paper.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial
from operator import attrgetter
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BeforeValidator, Field

from lightkv.core.attention import AttentionView
from lightkv.core.contracts import Matcher, MatchInput
from lightkv.core.encoder import VisionView
from lightkv.core.errors import ConfigError
from lightkv.core.needs import Needs
from lightkv.core.plugins import build_component, checked_spec
from lightkv.core.sizes import Flops, StageSizes
from lightkv.core.stage.checks import blamed, check_targets
from lightkv.strategies.components.selection import descending

ComponentSpec = str | dict[str, Any]
MatcherSpec = Annotated[ComponentSpec, BeforeValidator(partial(checked_spec, "matcher"))]
"""A matcher as a field of another component; it is known to build."""


def _of_inner(name: str) -> Any:
    """A property that a wrapper takes from the matcher inside."""
    return property(attrgetter(f"inner.{name}"))


class MatcherWrapper(Matcher):
    """A matcher over another one: passes on what it needs."""

    of: MatcherSpec

    @cached_property
    def inner(self) -> Matcher:
        """The matcher inside."""
        built = build_component("matcher", self.of)
        assert isinstance(built, Matcher)
        return built

    max_ratio = _of_inner("max_ratio")
    needs_surroundings = _of_inner("needs_surroundings")
    needs_cells = _of_inner("needs_cells")
    knows_inner = _of_inner("knows_inner")
    drops = _of_inner("drops")
    dynamic = _of_inner("dynamic")

    def needs(self) -> Needs:
        return self.inner.needs()

    def keep(self, population: int, ratio: float) -> int:
        return self.inner.keep(population, ratio)

    def targets(self, inputs: MatchInput) -> torch.Tensor:
        """`[G, n]` what the inner matcher says."""
        with blamed(self.inner, "match"):
            target = self.inner.match(inputs)
        windows, population, _ = inputs.tokens.shape
        device = inputs.tokens.device
        check_targets(self.inner, target, (windows, population), device, inputs.context)
        return target

    def least(self, population: int) -> int:
        """Survivors that the inner matcher leaves of a window at least."""
        return self.inner.keep(population, self.inner.max_ratio)

    def flops(self, sizes: StageSizes) -> Flops:
        return self.inner.flops(sizes)

    def read_attention(self, attention: AttentionView) -> torch.Tensor | None:
        return self.inner.read_attention(attention)

    def read_encoder(self, vision: VisionView) -> torch.Tensor | None:
        return self.inner.read_encoder(vision)


class Protect(MatcherWrapper):
    """The top ⌊share · n⌋ tokens of a window by importance take no part: they stay as they are.

    The inner matcher works on the others and removes what the window has to lose, so the budget is
    exact. Nothing flows into a protected token either. Lower index wins among equals.
    """

    name = "protect"
    needs_score = True
    share: float = Field(default=0.1, ge=0.0, lt=1.0)

    @property
    def max_ratio(self) -> float:  # type: ignore[override]
        return self.inner.max_ratio * (1.0 - self.share)

    def protected(self, population: int) -> int:
        """How many tokens of a window stay."""
        return int(np.floor(self.share * population + 1e-9))

    def keep(self, population: int, ratio: float) -> int:
        safe = self.protected(population)
        return max(self.inner.keep(population, ratio), safe + self.least(population - safe))

    def count(self, inputs: MatchInput) -> torch.Tensor:
        safe = self.protected(inputs.tokens.shape[1])
        return self.inner.count(self._without(inputs, self._free(inputs))) + safe

    def match(self, inputs: MatchInput) -> torch.Tensor:
        free = self._free(inputs)
        inside = self.targets(self._without(inputs, free))
        target = torch.where(inside >= 0, free.gather(1, inside.clamp(min=0)), -1)
        places = torch.arange(inputs.tokens.shape[1], device=free.device)
        return places.expand(free.shape[0], -1).scatter(1, free, target)

    def _free(self, inputs: MatchInput) -> torch.Tensor:
        """`[G, n′]` places that are not protected, ascending."""
        assert inputs.score is not None
        order = descending(inputs.score)
        return order[:, self.protected(order.shape[1]) :].sort(dim=-1).values

    def _without(self, inputs: MatchInput, free: torch.Tensor) -> MatchInput:
        """The windows without their protected tokens."""

        def some(tensor: torch.Tensor | None) -> torch.Tensor | None:
            if tensor is None:
                return None
            index = free if tensor.dim() == 2 else free.unsqueeze(-1)
            return tensor.gather(1, index.expand(*free.shape, *tensor.shape[2:]))

        tokens, size = some(inputs.tokens), some(inputs.size)
        assert tokens is not None
        assert size is not None
        return replace(
            inputs,
            tokens=tokens,
            keep=inputs.keep - (inputs.tokens.shape[1] - free.shape[1]),
            score=some(inputs.score),
            size=size,
            from_attention=some(inputs.from_attention),
            from_encoder=some(inputs.from_encoder),
            inner=some(inputs.inner),
            cells=None if inputs.cells is None else inputs.cells.among(free),
        )


class Gather(MatcherWrapper):
    """What the inner matcher drops flows into one summary token, the most important of the dropped.

    The summary counts as a survivor: the inner matcher keeps one token less. What becomes of it is
    the aggregator's business; under `drop` it is one more token kept.

    Raises:
        ConfigError: an inner matcher that merges, so that there is nothing to gather.
    """

    name = "recycle"
    needs_score = True

    @property
    def drops(self) -> bool:  # type: ignore[override]
        return False

    @property
    def knows_inner(self) -> bool:  # type: ignore[override]
        return False

    def model_post_init(self, context: Any) -> None:
        if not self.inner.drops:
            raise ConfigError(
                f"matcher {self.inner.name!r} does not drop all that it removes, so there may be "
                "nothing to gather",
                field=f"matcher {self.name!r}, of",
                value=self.of,
                remedy="wrap a matcher that drops, such as 'top-k'",
            )

    def keep(self, population: int, ratio: float) -> int:
        fewest = self.least(population) + 1
        return min(population, max(self.inner.keep(population, ratio), fewest))

    def count(self, inputs: MatchInput) -> torch.Tensor:
        kept = self.inner.count(replace(inputs, keep=inputs.keep - 1))
        return (kept + 1).clamp(max=inputs.keep)

    def match(self, inputs: MatchInput) -> torch.Tensor:
        assert inputs.score is not None
        target = self.targets(replace(inputs, keep=inputs.keep - 1))
        gone = target < 0
        among = inputs.score.float().masked_fill(~gone, -torch.inf)
        summary = descending(among)[:, :1]
        return torch.where(gone, summary, target)
