"""Clustering of a few tokens by density peaks, with fixed shapes (Rodriguez and Laio, 2014)."""

from __future__ import annotations

from typing import Literal

import torch

from lightkv.strategies.bipartite import cosine


def density_peaks(tokens: torch.Tensor, clusters: int) -> torch.Tensor:
    """Centres `[G, C]` of `[G, m, D]` tokens: places with the largest density × distance.

    Density ρ_i = exp(−mean of d² over the C nearest, i itself included), d = Euclid/√D; δ_i =
    distance to the nearest denser token, the largest distance of all for the densest. Among equal
    densities the earlier token is the denser one, in place of the noise that published codes add.
    Compared in logarithms, so large distances do not underflow to equal densities.
    """
    distance = torch.cdist(tokens, tokens, compute_mode="donot_use_mm_for_euclid_dist")
    distance = distance / tokens.shape[-1] ** 0.5
    nearest = torch.sort(distance, dim=-1).values[..., :clusters]
    density = -nearest.square().mean(dim=-1)
    place = torch.arange(tokens.shape[1], device=tokens.device)
    equal = (density[:, None, :] == density[:, :, None]) & (place[None, :] < place[:, None])
    denser = (density[:, None, :] > density[:, :, None]) | equal
    farthest = distance.amax(dim=(1, 2), keepdim=True)
    apart = torch.where(denser, distance, farthest).amin(dim=-1)
    peak = density + apart.log()
    return torch.sort(peak, dim=-1, descending=True, stable=True).indices[:, :clusters]


def nearest_centre(
    tokens: torch.Tensor, centres: torch.Tensor, by: Literal["euclidean", "cosine"]
) -> torch.Tensor:
    """`[G, m]` place of the centre that each of `[G, m, D]` tokens belongs to; a centre is its own."""
    chosen = tokens.gather(1, centres.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
    if by == "cosine":
        near = cosine(tokens, chosen).max(dim=-1).indices
    else:
        apart = torch.cdist(tokens, chosen, compute_mode="donot_use_mm_for_euclid_dist")
        near = apart.min(dim=-1).indices
    belongs = centres.gather(1, near)
    return belongs.scatter(1, centres, centres)
