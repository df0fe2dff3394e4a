"""First step of training: teach the vision tower alone what each patch shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from lightkv.demo.digits import Split
from lightkv.demo.scenes import COLOR_WORDS, COLORS, GRID, SLOTS, PlacedDigit, compose
from training.architecture import VISION_TOKENS

GROUND_WEIGHT = 0.03
"""Most patches are ground; at full weight the tower would learn nothing else for long."""


def normalise(pictures: NDArray[np.uint8]) -> torch.Tensor:
    """What the processor makes of pictures ``[B, 96, 96, 3]``: ``[B, 3, 96, 96]`` in -1 to 1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1)


class PatchHeads(nn.Module):
    """Linear read-outs of a patch: digit, colour (each with "none"), slot row and slot column."""

    sizes = (11, len(COLORS) + 1, SLOTS, SLOTS)

    def __init__(self, width: int) -> None:
        """`width` of the tower's patches."""
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in self.sizes)

    def forward(self, patches: torch.Tensor) -> list[torch.Tensor]:
        """``[B, 144, width]`` to logits ``[B, 144, size]`` of each head."""
        return [head(patches) for head in self.heads]


def patch_labels(digits: list[PlacedDigit]) -> NDArray[np.int64]:
    """Labels of each patch for the four heads, ``[144, 4]``."""
    labels = np.empty((GRID, GRID, 4), dtype=np.int64)
    labels[..., 0], labels[..., 1] = 10, len(COLORS)
    labels[..., 2] = (np.arange(GRID) // (GRID // SLOTS))[:, None]
    labels[..., 3] = np.arange(GRID) // (GRID // SLOTS)
    for placed in digits:
        labels[placed.patch][:2] = placed.digit, COLOR_WORDS.index(placed.color)
    return labels.reshape(VISION_TOKENS, 4)


def crowded_batch(
    rng: np.random.Generator, size: int, split: Split, bank: NDArray[np.float32] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures with up to 16 digits, repeats allowed, and their patch labels ``[B, 144, 4]``."""
    pictures, labels = [], []
    for _ in range(size):
        count = int(rng.integers(4, SLOTS * SLOTS + 1))
        digits = rng.integers(0, 10, count).tolist()
        colors = rng.integers(0, len(COLORS), count).tolist()
        picture, placed = compose(rng, digits, colors, split, bank)
        pictures.append(picture)
        labels.append(patch_labels(placed))
    return normalise(np.stack(pictures)), torch.from_numpy(np.stack(labels))


def tower_features(tower: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """What LLaVA takes from the tower: patches of the last layer, ``[B, 144, width]``."""
    states: tuple[torch.Tensor, ...] = tower(pixels, output_hidden_states=True).hidden_states
    return states[-1][:, 1:]


def patch_loss(logits: list[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """Weighted cross-entropy of the four heads."""
    weight = torch.where(labels[..., 0] == 10, GROUND_WEIGHT, 1.0).flatten()
    total = weight.new_zeros(())
    for head, share in enumerate((1.0, 1.0, 0.2, 0.2)):
        target = labels[..., head].flatten()
        loss = functional.cross_entropy(logits[head].flatten(0, 1), target, reduction="none")
        total = total + share * (loss * weight).sum() / weight.sum()
    return total


@torch.no_grad()
def patch_accuracy(tower: nn.Module, heads: PatchHeads, batches: int = 4) -> list[float]:
    """Accuracy on test scans: digit and colour of digit patches, share of ground seen as such,
    slot row and column."""
    rng, hits = np.random.default_rng(1), []
    for _ in range(batches):
        pixels, labels = crowded_batch(rng, 32, "test", None)
        guess = torch.stack([x.argmax(-1) for x in heads(tower_features(tower, pixels))], -1)
        right, marked = (guess == labels).float(), labels[..., 0] != 10
        on, off = right[marked].mean(0), right[~marked].mean(0)
        hits.append([on[0].item(), on[1].item(), off[0].item(), on[2].item(), on[3].item()])
    return [float(share) for share in np.mean(hits, 0).round(4)]


def train_tower(
    tower: nn.Module,
    heads: PatchHeads,
    bank: NDArray[np.float32],
    seed: int,
    steps: int,
    log: Callable[[str], None],
    batch_size: int = 32,
    learning_rate: float = 2e-3,
) -> None:
    """Train tower and heads in place."""
    rng = np.random.default_rng([seed, 1])
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.03)
    for step, share in enumerate(cosine_with_warmup(steps)):
        optimizer.param_groups[0]["lr"] = learning_rate * share
        pixels, labels = crowded_batch(rng, batch_size, "train", bank)
        with torch.autocast("cpu", torch.bfloat16):
            logits = [x.float() for x in heads(tower_features(tower, pixels))]
        loss = patch_loss(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            log(f"tower {step + 1}/{steps} loss {loss.item():.3f}")
        if (step + 1) % 500 == 0 or step + 1 == steps:
            log(f"tower test digit, colour, ground, row, column {patch_accuracy(tower, heads)}")


def cosine_with_warmup(steps: int, warmup: int = 100) -> Iterator[float]:
    """The learning rate's share of its peak at each step."""
    for step in range(steps):
        rise = min(1.0, (step + 1) / warmup)
        yield rise * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * step / steps)))
