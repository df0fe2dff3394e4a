"""A fixed number of tokens shared out by claims, in whole tokens. No shape follows from values."""

from __future__ import annotations

import torch

from lightkv.strategies.components.selection import ranks

FRACTION_STEPS = 4096
"""Fractions of a token are compared in steps of 1/4096; the lower place goes first among equals."""


def exact_shares(total: int | torch.Tensor, claims: torch.Tensor) -> torch.Tensor:
    """`[G, n]` shares of `total` (a number, or `[G, 1]`) by claims ≥ 0; zeros where nobody claims."""
    sums = claims.sum(dim=1, keepdim=True)
    return total * claims / torch.where(sums == 0, 1.0, sums)


def shared_out(total: int | torch.Tensor, claims: torch.Tensor) -> torch.Tensor:
    """`[G, n]` whole shares of `total`, which add up to it if anybody claims: largest remainders."""
    exact = exact_shares(total, claims)
    quota = exact.floor()
    left = total - quota.sum(dim=1, keepdim=True)
    # In steps, or rounding would decide between fractions that are equal.
    fraction = ((exact - quota) * FRACTION_STEPS).round()
    order = ranks(torch.where(claims > 0, fraction, -1.0))
    one_more = (order < left) & (claims > 0)
    return (quota + one_more.float()).long()
