"""The Pareto front of cost and quality."""

from __future__ import annotations

from collections.abc import Sequence

NEAR = 0.01
"""Costs that differ by no more are equal."""


def front(points: Sequence[tuple[float | None, float]]) -> set[int]:
    """Numbers of the (cost, quality) points that no other point beats; None is no cost.

    A point beats those of lower quality that cost no less than it does, and those of equal quality that
    cost more. Costs within `NEAR` of one another are equal: what rounding of token counts leaves over
    is no saving. Points that tie are on the front together.
    """
    known = [
        (number, cost, quality) for number, (cost, quality) in enumerate(points) if cost is not None
    ]
    return {
        number
        for number, cost, quality in known
        if not any(
            (other > quality and paid <= cost + NEAR) or (other == quality and paid < cost - NEAR)
            for _, paid, other in known
        )
    }
