"""First step of training: teach the vision tower alone what each token shows.

A token must read as its digit word, its colour word and its motion word through the word embeddings
that questions are written in, so that a question's word can match it from the decoder's first step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision
from transformers.vision_utils import get_vision_position_ids

from lightkv.demo.clips import MOTIONS
from lightkv.demo.digits import Split
from lightkv.demo.scenes import (
    COLOR_WORDS,
    COLORS,
    DIGIT_WORDS,
    PALETTE,
    PATCH_SIZE,
    ground,
    pick_scan,
    stamp,
)
from training.tower import cosine_with_warmup
from training.video.architecture import (
    FRAMES,
    MERGE,
    MOTION_WORDS,
    PATCH,
    STILL_WORD,
    WINDOW,
    WORD_ID,
)
from training.words import GROUND_WORD

NO_DIGIT, NO_COLOR, STILL = len(DIGIT_WORDS), len(COLORS), len(MOTION_WORDS)
"""Labels of a token without a digit, or of a digit without motion."""
GROUND_WEIGHT = 0.03
GROUPS = ((*DIGIT_WORDS, GROUND_WORD), (*COLOR_WORDS, GROUND_WORD), (*MOTION_WORDS, STILL_WORD))
"""Words of the three labels of a token: digit, colour, motion."""


def patches(frames: NDArray[np.uint8]) -> torch.Tensor:
    """What the processor makes of pairs of frames ``[N, 2, H, W, 3]``: ``[N, P, 96]`` in -1 to 1, the
    four patches of a token together, values by channel, frame, row and column."""
    side = PATCH * MERGE
    n, pair, high, wide, channels = frames.shape
    x = torch.from_numpy(frames)
    x = x.view(n, pair, high // side, MERGE, PATCH, wide // side, MERGE, PATCH, channels)
    x = x.permute(0, 2, 5, 3, 6, 8, 1, 4, 7)
    return x.reshape(n, -1, channels * pair * PATCH * PATCH).float().div(127.5).sub(1)


@functools.cache
def windows(rows: int, cols: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches of each window, ``[W, 64]`` with repeats where it is not full, and which of them count,
    for a picture of `rows` x `cols` tokens; patches of a token are together."""
    high, wide = -(-rows // WINDOW), -(-cols // WINDOW)
    token = torch.full((high * WINDOW, wide * WINDOW), -1)
    token[:rows, :cols] = torch.arange(rows * cols).view(rows, cols)
    token = token.view(high, WINDOW, wide, WINDOW).transpose(1, 2).reshape(high * wide, -1)
    patch = token[..., None] * MERGE**2 + torch.arange(MERGE**2)
    patch = torch.where(token[..., None] < 0, -1, patch).flatten(1)
    return patch.clamp(min=0), patch >= 0


def tower_tokens(visual: nn.Module, pixels: torch.Tensor, rows: int, cols: int) -> torch.Tensor:
    """What the tower makes of equally large pairs of frames, all at once: ``[N, P, 96]`` to
    ``[N, rows x cols, D]``, tokens in reading order."""
    grid = torch.tensor([[1, rows * MERGE, cols * MERGE]])
    x = functional.linear(pixels, visual.patch_embed.proj.weight.flatten(1))
    cos, sin = visual.rotary_pos_emb(x, get_vision_position_ids(grid, MERGE))
    index, valid = windows(rows, cols)
    for number, block in enumerate(visual.blocks):
        attention, h = block.attn, block.norm1(x)
        q, k, v = attention.qkv(h).unflatten(-1, (3, attention.num_heads, -1)).unbind(2)
        q, k = apply_rotary_pos_emb_vision(q, k, cos, sin)
        if number in visual.fullatt_block_indexes:
            q, k, v = (y.transpose(1, 2) for y in (q, k, v))
            out = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        else:
            q, k, v = (y[:, index].transpose(2, 3).flatten(0, 1) for y in (q, k, v))
            mask = valid[:, None, None].repeat(len(x), 1, 1, 1)
            out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            out = out.unflatten(0, (len(x), -1)).transpose(2, 3)[:, valid]
            out = out[:, index[valid].argsort()]
        x = x + attention.proj(out.flatten(2))
        x = x + block.mlp(block.norm2(x))
    return visual.merger(x.flatten(0, 1)).view(len(x), rows * cols, -1)


class Reading(nn.Module):
    """How well tokens read as words: the loss, and the guesses."""

    def logits(self, image: torch.Tensor, words: torch.Tensor) -> list[torch.Tensor]:
        """Tokens ``[B, V, D]`` and word embeddings to logits ``[B, V, C]`` of each of `GROUPS`."""
        image = functional.rms_norm(image.float(), image.shape[-1:])
        ids = [[WORD_ID[word] for word in group] for group in GROUPS]
        return [image @ words[group].float().T for group in ids]

    def forward(
        self, image: torch.Tensor, words: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Loss with labels ``[B, V, 3]``; motion counts on digits only."""
        total = image.new_zeros((), dtype=torch.float32)
        digit = labels[..., 0] != NO_DIGIT
        weight = torch.where(digit, 1.0, GROUND_WEIGHT)
        for group, (logits, share) in enumerate(
            zip(self.logits(image, words), (weight, weight, digit.float()), strict=True)
        ):
            loss = functional.cross_entropy(
                logits.flatten(0, 1), labels[..., group].flatten(), reduction="none"
            )
            total = total + (loss * share.flatten()).sum() / share.sum()
        return total


def crowded_pairs(
    rng: np.random.Generator, size: int, split: Split, bank: NDArray[np.float32] | None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pairs of frames ``[size, 2, H, W, 3]`` of one random size, full of digits that stand or move, and
    labels ``[size, rows, cols, 3]`` of their tokens. Half of the pairs are still pictures."""
    rows, cols = (int(side) for side in rng.integers(6, 13, 2))
    frames = np.empty((size, FRAMES, rows * PATCH_SIZE, cols * PATCH_SIZE, 3), dtype=np.uint8)
    labels = np.empty((size, rows, cols, 3), dtype=np.int64)
    labels[...] = NO_DIGIT, NO_COLOR, STILL
    for pair, label in zip(frames, labels, strict=True):
        picture = ground(rng, rows * PATCH_SIZE, cols * PATCH_SIZE)
        moving = rng.random() < 0.5
        drawn = np.stack([picture] * FRAMES)
        if moving:
            drawn += rng.integers(-3, 4, (FRAMES, *picture.shape[:2], 1))
        count = int(rng.integers(4, max(5, rows * cols // 4)))
        for place in rng.choice(rows * cols, count, replace=False).tolist():
            row, col = divmod(place, cols)
            digit, color = int(rng.integers(10)), int(rng.integers(len(COLORS)))
            motion = int(rng.integers(len(MOTIONS))) if moving and rng.random() < 0.6 else STILL
            label[row, col] = digit, color, motion
            _, ink = pick_scan(rng, digit, split, bank)
            shade, jitter = PALETTE[color] * rng.uniform(0.9, 1.0), rng.integers(-1, 2, 2)
            down, right = (0, 0) if motion == STILL else MOTIONS[MOTION_WORDS[motion]]
            for frame, side in zip(drawn, (-PATCH_SIZE // 4, PATCH_SIZE // 4), strict=True):
                top = row * PATCH_SIZE + int(jitter[0]) + side * down
                stamp(frame, ink, shade, (top, col * PATCH_SIZE + int(jitter[1]) + side * right))
        pair[:] = np.rint(drawn.clip(0, 255))
    return frames, labels


@torch.no_grad()
def reading_accuracy(
    model: Qwen2_5_VLForConditionalGeneration, reading: Reading, batches: int = 4
) -> list[float]:
    """On test scans: digit, colour and motion of digit tokens, share of ground seen as such."""
    rng, hits = np.random.default_rng(1), []
    for _ in range(batches):
        frames, labels = crowded_pairs(rng, 24, "test", None)
        image = tower_tokens(model.model.visual, patches(frames), *labels.shape[1:3])
        target = torch.from_numpy(labels).flatten(1, 2)
        logits = reading.logits(image, model.get_input_embeddings().weight)
        right = (torch.stack([x.argmax(-1) for x in logits], -1) == target).float()
        digit = target[..., 0] != NO_DIGIT
        hits.append([*right[digit].mean(0).tolist(), right[~digit][:, 0].mean().item()])
    return [float(share) for share in np.mean(hits, 0).round(4)]


def train_tower(
    model: Qwen2_5_VLForConditionalGeneration,
    reading: Reading,
    bank: NDArray[np.float32],
    seed: int,
    steps: int,
    log: Callable[[str], None],
    batch_size: int = 8,
    learning_rate: float = 3e-3,
) -> None:
    """Train tower and word embeddings in place."""
    rng = np.random.default_rng([seed, 1])
    visual, words = model.model.visual, model.get_input_embeddings().weight
    parameters = [*visual.parameters(), words]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.02)
    for step, share in enumerate(cosine_with_warmup(steps)):
        optimizer.param_groups[0]["lr"] = learning_rate * share
        frames, labels = crowded_pairs(rng, batch_size, "train", bank)
        image = tower_tokens(visual, patches(frames), *labels.shape[1:3])
        loss = reading(image, words, torch.from_numpy(labels).flatten(1, 2))
        size = image.float().square().mean()
        optimizer.zero_grad(set_to_none=True)
        (loss + 0.1 * (size.sqrt() - 0.5).square()).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            log(f"tower {step + 1}/{steps} loss {loss.item():.3f} size {size.sqrt().item():.2f}")
        if (step + 1) % 500 == 0 or step + 1 == steps:
            accuracy = reading_accuracy(model, reading)
            log(f"tower test digit, colour, motion, ground {accuracy}")
