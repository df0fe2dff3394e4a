"""Attention heads that are spread over several processes (tensor parallelism).

A view hands out the heads that this process holds. Whatever is summed, averaged or compared over
heads goes through `AttentionView.heads`, so that every process sees the sum over all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch


class HeadGroup:
    """The processes that share the heads of a layer; this one is alone and holds them all.

    An adapter of a model whose heads are spread derives from it, sets `size` and overrides
    `all_reduce`, `broadcast` and `gather`. Every process must call the same methods in the same order.

    Attributes:
        size: processes, each of which holds the same number of heads.
        rank: this one's place among them; the heads of all stand in the order of ranks.
        reductions: how often something was reduced over heads.
    """

    size: int = 1
    rank: int = 0

    def __init__(self) -> None:
        self.reductions = 0

    # -- for components ------------------------------------------------------------------------

    def total(self, partial: torch.Tensor) -> torch.Tensor:
        """The sum over processes of what was summed over this process's heads already.

        Call it once, on the finished `[B, N]`: each call is a message between processes.
        """
        self.reductions += 1
        return partial if self.size == 1 else self.all_reduce(partial, "sum")

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """`[B, H, …]` → `[B, …]`, the sum over all heads."""
        return self.total(values.sum(dim=1))

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """`[B, H, …]` → `[B, …]`, the mean over all heads."""
        mean = self.total(values.mean(dim=1))
        return mean if self.size == 1 else mean / self.size

    def max(self, values: torch.Tensor) -> torch.Tensor:
        """`[B, H, …]` → `[B, …]`, the largest over all heads."""
        self.reductions += 1
        largest = values.amax(dim=1)
        return largest if self.size == 1 else self.all_reduce(largest, "max")

    # -- for the engine ------------------------------------------------------------------------

    def agree(self, decisions: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The first process's decisions, for all.

        Scores are equal in all processes, but hidden states may differ in the last bit where sums
        are not ordered (a GPU's atomic adds). One token kept here and another there would put the
        heads of one cache entry on two tokens.
        """
        if self.size == 1 or not decisions:
            return list(decisions)
        sizes = [decision.numel() for decision in decisions]
        told = self.broadcast(torch.cat([decision.flatten() for decision in decisions]))
        parts = torch.split(told, sizes)
        return [part.view_as(old) for part, old in zip(parts, decisions, strict=True)]

    def all_heads(self, entries: torch.Tensor) -> torch.Tensor:
        """`[B, H, N, d]` of this process → `[B, size·H, N, d]` of all."""
        return entries if self.size == 1 else torch.cat(self.gather(entries), dim=1)

    def own_heads(self, entries: torch.Tensor) -> torch.Tensor:
        """The inverse of `all_heads`."""
        count = entries.shape[1] // self.size
        return entries.narrow(1, self.rank * count, count)

    def all_reduce(self, values: torch.Tensor, how: Literal["sum", "max"]) -> torch.Tensor:
        """A new tensor: the sum or the maximum over the processes."""
        return values

    def broadcast(self, values: torch.Tensor) -> torch.Tensor:
        """A new tensor: the first process's values."""
        return values

    def gather(self, values: torch.Tensor) -> list[torch.Tensor]:
        """The values of all processes, by rank."""
        return [values]
