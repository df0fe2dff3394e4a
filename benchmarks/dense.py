"""LightKV's stage as one would write it from the paper: the full attention matrix, a loop over windows.

The yardstick of `stage.py`. Nothing here is made slow on purpose: matrix products and reductions are
torch's, the similarities and the merge of a window are vectorised; what is plain is that all heads of
the whole sequence are formed at once and that Python goes from window to window.
"""

from __future__ import annotations

import torch

Image = tuple[int, tuple[int, int, int]]
"""(start, (frames, rows, columns)) of an image or video in its row, raster order."""


def guidance(query: torch.Tensor, key: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """`[B, N]` Σ over heads and prompt of the softmax over queries, before the causal mask.

    Args:
        query, key: `[B, H, N, d]`, `[B, Hₖᵥ, N, d]`.
        text: `[P]` positions of the prompt, the same in all rows.
    """
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    logits = query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)
    attention = logits.softmax(dim=2, dtype=torch.float32)
    return attention[..., text].sum(dim=(1, 3))


def split(image: Image, per_side: int) -> list[torch.Tensor]:
    """Positions of each window of an image: `per_side` by `per_side` in every frame."""
    start, (frames, rows, columns) = image
    places = start + torch.arange(frames * rows * columns).view(frames, rows, columns)
    return [
        window.flatten()
        for frame in places
        for band in frame.tensor_split(per_side, dim=0)
        for window in band.tensor_split(per_side, dim=1)
    ]


def merge(
    tokens: torch.Tensor, weight: torch.Tensor, ratio: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """One window: `[k, D]` survivors and `[k]` which of the `[n, D]` tokens they are."""
    wide = tokens.float()
    unit = wide / wide.norm(dim=-1, keepdim=True)
    best, partner = (unit[0::2] @ unit[1::2].T).max(dim=1)
    count = min(int(ratio * len(tokens) + 1e-9), len(tokens) // 2)
    chosen = best.argsort(descending=True, stable=True)[:count]
    source, target = 2 * chosen, 2 * partner[chosen] + 1
    weighted = wide * weight[:, None]
    total = weighted.index_add(0, target, weighted[source])
    mass = weight.index_add(0, target, weight[source])
    joined = torch.zeros(len(tokens), dtype=torch.bool).index_fill(0, target, True)
    merged = torch.where(joined[:, None], (total / mass[:, None]).to(tokens.dtype), tokens)
    stays = torch.ones(len(tokens), dtype=torch.bool).index_fill(0, source, False)
    kept = stays.nonzero().flatten()
    return merged[kept], kept


def stage(
    hidden_states: torch.Tensor,
    score: torch.Tensor,
    images: list[list[Image]],
    per_side: int,
    ratio: float,
) -> torch.Tensor:
    """`[B, N′, D]` after one stage; all rows must lose the same number of tokens.

    Args:
        hidden_states: `[B, N, D]`.
        score: `[B, N]` guidance.
        images: for each row its images.
        per_side: windows per side of each frame.
        ratio: share of each window that goes.
    """
    rows = []
    for row, own in enumerate(images):
        out = hidden_states[row].clone()
        stays = torch.ones(len(out), dtype=torch.bool)
        for image in own:
            for window in split(image, per_side):
                merged, kept = merge(hidden_states[row, window], score[row, window], ratio)
                stays[window] = False
                stays[window[kept]] = True
                out[window[kept]] = merged
        rows.append(out[stays])
    return torch.stack(rows)


def matrix_bytes(heads: int, length: int, dtype: torch.dtype) -> int:
    """Bytes that `guidance` holds at once: the logits and their softmax in float32."""
    return heads * length * length * (dtype.itemsize + 4)
