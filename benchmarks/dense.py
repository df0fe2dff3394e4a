"""LightKV's stage written down straight, for comparison: all of the attention, a loop over windows.

The same method as the preset `lightkv` (windows of the true grid, softmax over queries, alternating
sources and destinations, importance-weighted mean), for one sample without padding, as one would write
it from the paper: every logit of every head is formed, each window is a turn of a Python loop. Inside a
window it is as vectorised as it gets; nothing here is slow on purpose.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Grid:
    """Where the picture or video is: first position, (frames, rows, columns), windows per axis."""

    start: int
    shape: tuple[int, int, int]
    windows: tuple[int, int, int]

    @property
    def tokens(self) -> int:
        frames, rows, columns = self.shape
        return frames * rows * columns

    def members(self) -> list[torch.Tensor]:
        """Raster indices of the tokens of each window."""
        raster = torch.arange(self.tokens).view(self.shape)
        found = []
        for part in raster.tensor_split(self.windows[0], dim=0):
            for strip in part.tensor_split(self.windows[1], dim=1):
                found += [w.flatten() for w in strip.tensor_split(self.windows[2], dim=2)]
        return found


def guidance(query: torch.Tensor, key: torch.Tensor, grid: Grid) -> torch.Tensor:
    """`[V]` importances from query and key `[H, N, d]`: softmax of all logits over the queries."""
    logits = torch.matmul(query, key.transpose(1, 2)) * query.shape[-1] ** -0.5
    attention = logits.float().softmax(dim=1)
    place = torch.arange(query.shape[1])
    text = (place < grid.start) | (place >= grid.start + grid.tokens)
    return attention[:, :, text].sum(dim=(0, 2))[grid.start : grid.start + grid.tokens]


def merge_windows(
    tokens: torch.Tensor, importance: torch.Tensor, grid: Grid, ratio: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Survivors `[V′, D]` in raster order, and their raster indices, from `[V, D]`."""
    merged, kept = tokens.float().clone(), []
    for members in grid.members():
        source, destination = members[0::2], members[1::2]
        count = min(int(ratio * members.numel() + 1e-9), members.numel() // 2)
        a = torch.nn.functional.normalize(tokens[source].float(), dim=-1)
        b = torch.nn.functional.normalize(tokens[destination].float(), dim=-1)
        best, partner = (a @ b.T).max(dim=1)
        chosen = best.argsort(descending=True, stable=True)[:count]
        weight = torch.zeros(source.numel(), destination.numel())
        weight[chosen, partner[chosen]] = importance[source[chosen]]
        touched = weight.sum(dim=0) > 0
        own = importance[destination]
        total = weight.sum(dim=0) + own
        mean = (weight.T @ tokens[source].float() + own[:, None] * tokens[destination].float()) / (
            total[:, None]
        )
        merged[destination[touched]] = mean[touched]
        left = torch.ones(source.numel(), dtype=torch.bool)
        left[chosen] = False
        kept += [source[left], destination]
    index = torch.cat(kept).sort().values
    return merged[index].to(tokens.dtype), index


def dense_stage(
    hidden: torch.Tensor, query: torch.Tensor, key: torch.Tensor, grid: Grid, ratio: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """New hidden states `[N′, D]` of `[N, D]`, and the raster indices of the surviving tokens."""
    importance = guidance(query, key, grid)
    end = grid.start + grid.tokens
    tokens, index = merge_windows(hidden[grid.start : end], importance, grid, ratio)
    return torch.cat([hidden[: grid.start], tokens, hidden[end:]]), index
