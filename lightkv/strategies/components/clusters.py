"""Clustering of a few tokens by density peaks, with fixed shapes (Rodriguez and Laio, 2014)."""

from __future__ import annotations

from typing import Literal

import torch

from lightkv.strategies.components.magnitude import largest, power_of_two
from lightkv.strategies.components.selection import descending, rows
from lightkv.strategies.components.similarity import cosine


def density_peaks(tokens: torch.Tensor, clusters: int) -> torch.Tensor:
    """Centres `[G, C]` of `[G, m, D]` tokens: places with the largest density × distance.

    Of the density of C neighbours, see `peaks`.
    """
    distance, scale = distances(tokens)
    return descending(peaks(distance, scale, clusters))[:, :clusters]


def distances(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`[G, m, m]` Euclid/√D in units in which the largest coordinate of a group is near 1, so that
    no square overflows, and `[G, 1, 1]` how many such units a unit of `tokens` `[G, m, D]` is."""
    near, scale = near_one(tokens)
    apart = torch.cdist(near, near, compute_mode="donot_use_mm_for_euclid_dist")
    return apart / tokens.shape[-1] ** 0.5, scale


def peaks(
    distance: torch.Tensor,
    scale: torch.Tensor,
    neighbours: int,
    among: torch.Tensor | None = None,
) -> torch.Tensor:
    """`[G, m]` density × distance in an order-preserving form, −∞ for tokens that are not `among`.

    Density ρ_i = exp(−mean of d² over the nearest `neighbours`, i itself included); δ_i = distance to
    the nearest denser token, the largest distance of all for the densest. Among equal densities the
    earlier token is the denser one, in place of the noise that published codes add. Compared in
    logarithms, so large distances do not underflow to equal densities.

    Args:
        distance, scale: as `distances` gives them.
        neighbours: of which there may be fewer.
        among: `[G, m]` the tokens that count; all if None.
    """
    if among is None:
        nearest = torch.sort(distance, dim=-1).values[..., :neighbours]
        density, both = -nearest.square().mean(dim=-1), None
    else:
        both = among[:, :, None] & among[:, None, :]
        nearest = torch.sort(torch.where(both, distance, torch.inf), dim=-1).values
        nearest = nearest[..., :neighbours]
        counted = nearest < torch.inf
        total = torch.where(counted, nearest, 0.0).square().sum(dim=-1)
        density = -total / counted.sum(dim=-1).clamp(min=1)
    place = torch.arange(distance.shape[1], device=distance.device)
    equal = (density[:, None, :] == density[:, :, None]) & (place[None, :] < place[:, None])
    denser = (density[:, None, :] > density[:, :, None]) | equal
    if both is not None:
        denser, distance = denser & both, torch.where(both, distance, 0.0)
    farthest = distance.amax(dim=(1, 2), keepdim=True)
    apart = torch.where(denser, distance, farthest).amin(dim=-1)
    # log ρδ is density/scale² + log apart and a constant; times scale² where that is below 1.
    scale = scale[..., 0]
    large, small = (1.0 / scale).clamp(max=1.0), scale.clamp(max=1.0)
    peak = torch.where(apart > 0, density * large**2 + apart.log() * small**2, -torch.inf)
    return peak if among is None else torch.where(among, peak, -torch.inf)


def near_one(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`[G, m, D]` with the largest coordinate of each group in [1, 2), and `[G, 1, 1]` by what."""
    scale = power_of_two(largest(tokens, dim=(1, 2)))
    return tokens * scale, scale


def nearest_centre(
    tokens: torch.Tensor, centres: torch.Tensor, by: Literal["euclidean", "cosine"]
) -> torch.Tensor:
    """`[G, m]` place of the centre that each of `[G, m, D]` tokens belongs to; a centre is its own."""
    chosen = rows(tokens, centres)
    if by == "cosine":
        nearest = cosine(tokens, chosen).max(dim=-1).indices
    else:
        near, scale = near_one(tokens)
        apart = torch.cdist(near, chosen * scale, compute_mode="donot_use_mm_for_euclid_dist")
        nearest = apart.min(dim=-1).indices
    belongs = centres.gather(1, nearest)
    return belongs.scatter(1, centres, centres)
