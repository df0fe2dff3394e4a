"""Losses that tell the model where to look; used in training only, no trace in the checkpoint.

Grounding: a projected patch must read as its digit word and its colour word through the tied word
embeddings, so that a question's word can match it from the first step. Pointing: two heads of two
decoder layers must attend from the word that answers to the patch that holds the answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from lightkv.demo.scenes import COLOR_WORDS, DIGIT_WORDS
from training.architecture import GROUND_WORD, WORD_ID
from training.deepen import placed
from training.packing import EVERYWHERE, IMAGE_END, NOWHERE, PREFIX_LENGTH, Batch
from training.tower import GROUND_WEIGHT
from training.watching import watching

HOPS = (3, 5)
"""Layers of the shallow decoder (from 0) of the two hops: what is named, then what is asked."""
POINTER_HEADS = 2


@contextmanager
def pointing(decoder: PreTrainedModel) -> Iterator[dict[int, tuple[torch.Tensor, torch.Tensor]]]:
    """Let the decoder's attention leave query and key behind; restores the config on exit."""
    layers = [placed(layer, decoder.config.num_hidden_layers) for layer in HOPS]
    with watching(decoder, layers) as captured:
        yield captured


def pointer_loss(
    captured: dict[int, tuple[torch.Tensor, torch.Tensor]], batch: Batch, mask: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy between attention and where it should go, mean over hops and heads."""
    total = mask.new_zeros((), dtype=torch.float32)
    everywhere = functional.pad((batch.patches[..., 0] != 10).float(), (PREFIX_LENGTH, 0))
    everywhere[:, 0] = 1  # attention kept by <bos> then is 1 / (1 + digits): a count
    everywhere = everywhere / everywhere.sum(1, keepdim=True)
    for hop in range(len(HOPS)):
        query, key = (states[:, :POINTER_HEADS] for states in captured[hop])
        target = batch.pointers[..., hop]
        sample, word = (target != NOWHERE).nonzero(as_tuple=True)
        logits = query[:, :, IMAGE_END:] @ key.transpose(-1, -2)
        rows = logits[sample, :, word].float() * query.shape[-1] ** -0.5  # [R, heads, L]
        rows = rows.masked_fill(~mask[0, 0, IMAGE_END + word][:, None], -torch.inf)
        rows = rows.log_softmax(-1)[..., :IMAGE_END]  # targets are prefix or picture
        wanted = target[sample, word]
        goal = functional.one_hot(wanted.clamp(min=0), IMAGE_END).float()
        goal = torch.where((wanted == EVERYWHERE)[:, None], everywhere[sample], goal)
        total = total - (goal[:, None] * rows).sum(-1).mean()
    return total / 2


class Grounding(nn.Module):
    """The grounding loss; holds the linear read-outs of slot row and column."""

    def __init__(self, width: int, slots: int = 4) -> None:
        """`width` of the projected patches, `slots` rows and columns."""
        super().__init__()
        self.row = nn.Linear(width, slots)
        self.col = nn.Linear(width, slots)

    def forward(
        self, image: torch.Tensor, words: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Projected patches ``[B, 144, D]``, word embeddings ``[V, D]``, labels ``[B, 144, 4]``."""
        image = functional.rms_norm(image.float(), image.shape[-1:])
        ground = WORD_ID[GROUND_WORD]
        weight = torch.where(labels[..., 0] == 10, GROUND_WEIGHT, 1.0).flatten()
        total = image.new_zeros(())
        for head, group in enumerate((DIGIT_WORDS, COLOR_WORDS)):
            ids = torch.tensor([*(WORD_ID[word] for word in group), ground])
            logits = image @ words[ids].float().T
            total = total + weighted(logits, labels[..., head], weight)
        total = total + 0.3 * weighted(self.row(image), labels[..., 2], weight)
        return total + 0.3 * weighted(self.col(image), labels[..., 3], weight)


def weighted(logits: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted mean cross-entropy of logits ``[B, P, C]``."""
    loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return (loss * weight).sum() / weight.sum()
