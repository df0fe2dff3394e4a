"""Index arithmetic that selecting matchers share. Shapes follow from arguments, never from values."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

Rounding = Literal["round", "floor", "ceil"]
"""Of the number kept: half to even, down or up."""


def rounded_keep(population: int, ratio: float, rounding: Rounding) -> int:
    """n·(1 − ρ) as a whole number; what only the floating point adds or takes off does not count."""
    kept = round(population * (1.0 - ratio), 6)
    if rounding == "round":
        return round(kept)
    return int(np.floor(kept) if rounding == "floor" else np.ceil(kept))


def descending(score: torch.Tensor) -> torch.Tensor:
    """`[G, n]` indices by falling score, the lower index first among equals."""
    return torch.sort(score, dim=-1, descending=True, stable=True).indices


def ranks(score: torch.Tensor) -> torch.Tensor:
    """`[G, n]` place of each token in the order of `descending`."""
    order = descending(score)
    places = torch.arange(score.shape[1], device=score.device).expand_as(order)
    return torch.zeros_like(order).scatter(1, order, places)


def ranks_inside(score: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """`[G, n]` place of each token in falling score among the tokens of its part `[G, n]`."""
    order = descending(score)
    # Stable: parts in ascending order, each in falling score.
    grouped = order.gather(1, torch.sort(part.gather(1, order), dim=-1, stable=True).indices)
    label = part.gather(1, grouped)
    return torch.zeros_like(grouped).scatter(1, grouped, place_in_run(label))


def run_starts(label: torch.Tensor) -> torch.Tensor:
    """`[…, n]` true where a run of equal labels `[…, n]` begins."""
    opens = torch.ones_like(label, dtype=torch.bool)
    opens[..., 1:] = label[..., 1:] != label[..., :-1]
    return opens


def place_in_run(label: torch.Tensor) -> torch.Tensor:
    """`[…, n]` place of each entry in its run of equal labels `[…, n]`, from 0."""
    place = torch.arange(label.shape[-1], device=label.device).expand_as(label)
    return place - torch.where(run_starts(label), place, 0).cummax(dim=-1).values


def best(score: torch.Tensor, preferred: torch.Tensor, keep: int) -> torch.Tensor:
    """`[G, keep]` tokens of the highest `preferred` `[G, n]`, among equals of the highest score."""
    order = descending(score)
    again = descending(preferred.gather(1, order))
    return order.gather(1, again)[:, :keep]


def kept_only(chosen: torch.Tensor, population: int) -> torch.Tensor:
    """Targets `[G, n]` when the tokens `chosen` `[G, k]` stay and all others are dropped."""
    target = chosen.new_full((chosen.shape[0], population), -1)
    return target.scatter(1, chosen, chosen)


def flags(chosen: torch.Tensor, population: int) -> torch.Tensor:
    """`[G, n]` 1 at the tokens `chosen` `[G, k]`, 0 elsewhere."""
    flag = torch.zeros(chosen.shape[0], population, dtype=torch.long, device=chosen.device)
    return flag.scatter(1, chosen, 1)


def unchosen(flag: torch.Tensor, count: int) -> torch.Tensor:
    """`[G, count]` the first `count` tokens without a flag `[G, n]`, in raster order."""
    return torch.sort(flag, dim=-1, stable=True).indices[:, :count]


def rows(features: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`[G, n, D]` at `[G, k]` → `[G, k, D]`."""
    return features.gather(1, index.unsqueeze(-1).expand(-1, -1, features.shape[-1]))


def first_largest(values: torch.Tensor) -> torch.Tensor:
    """`[…]` place of the first maximum along the last dimension of `[…, n]`.

    Unlike `argmax`, which may give any of several equal places.
    """
    largest = values == values.amax(dim=-1, keepdim=True)
    last = values.shape[-1] - 1
    places = torch.arange(values.shape[-1], device=values.device)
    return torch.where(largest, places, last).amin(dim=-1)
