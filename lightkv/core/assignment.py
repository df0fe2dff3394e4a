"""Who flowed into whom: the record of a stage, and its composition over stages (provenance)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lightkv.core.errors import LayoutError

DROPPED = -1


@dataclass(frozen=True)
class Assignment:
    """For each vision token of a batch the slot that it flows into, and with which weight.

    Tokens and slots are counted over the batch, sample after sample, each sample in raster order.

    Attributes:
        slot: `[V]` output slot of each token, or `DROPPED`.
        weight: `[V]` share of the token in its slot. Of a convex aggregation the shares of a slot
            add up to 1; 0 for a dropped token.
        survivor: `[V′]` the token whose place and position each slot takes.
        token_counts: tokens of each sample before; slots of each sample after (`slot_counts`).
    """

    slot: torch.Tensor
    weight: torch.Tensor
    survivor: torch.Tensor
    token_counts: tuple[int, ...]
    slot_counts: tuple[int, ...]

    @classmethod
    def identity(cls, counts: tuple[int, ...], device: torch.device | str = "cpu") -> Assignment:
        """Every token is its own slot."""
        tokens = torch.arange(sum(counts), device=device)
        ones = torch.ones(tokens.numel(), dtype=torch.float32, device=device)
        return cls(tokens, ones, tokens, counts, counts)

    def then(self, later: Assignment) -> Assignment:
        """The assignment from this one's tokens to `later`'s slots.

        Raises:
            LayoutError: `later` does not start from this assignment's slots.
        """
        if later.token_counts != self.slot_counts:
            raise LayoutError(
                f"assignments do not chain: {self.slot_counts} slots, then {later.token_counts} tokens",
                field="later",
                remedy="compose the assignments of one run in the order of its stages",
            )
        alive = self.slot >= 0
        step = self.slot.clamp(min=0)
        if later.slot.numel() == 0:
            return Assignment(
                self.slot, self.weight, later.survivor, self.token_counts, later.slot_counts
            )
        slot = torch.where(alive, later.slot[step], DROPPED)
        weight = torch.where(slot >= 0, self.weight * later.weight[step], 0.0)
        return Assignment(
            slot, weight, self.survivor[later.survivor], self.token_counts, later.slot_counts
        )

    def group_sizes(self) -> torch.Tensor:
        """`[V′]` how many tokens each slot holds."""
        return self.pooled(torch.ones_like(self.weight))

    def pooled(self, values: torch.Tensor) -> torch.Tensor:
        """Sum of `values` `[V]` or `[V, D]` over the tokens of each slot, `[V′]` or `[V′, D]`."""
        slots = self.survivor.numel()
        # Dropped tokens go to a spare row, so this also holds where no slot is left at all.
        total = values.new_zeros((slots + 1, *values.shape[1:]))
        where = torch.where(self.slot >= 0, self.slot, slots)
        return total.index_add(0, where, values)[:slots]

    def merged(self, tokens: torch.Tensor) -> torch.Tensor:
        """`[V′, D]` the weighted sum of `tokens` `[V, D]` in each slot: the oracle of a convex stage."""
        return self.pooled(tokens.float() * self.weight.float().unsqueeze(-1))
