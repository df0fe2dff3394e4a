"""Losses that tell the decoder where to look and what to know; no trace of them in the checkpoint.

Looking: in two layers the heads that share keys must attend from the word that answers to the vision
tokens that hold the answer; one group of heads for what digits are, the other for when they are seen.
Knowing: after the second layer a vision token knows its row, column and step, which the tower does not
tell it; after the third, whether its digit was there before; after the fifth, which digits are left of
it and above it in its picture. After the third layer the word that answers reads as the side and the
name that its question has: without that, motion was looked for and its direction was not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from lightkv.demo.clips import MAX_STEPS
from lightkv.demo.native import MAX_SIDE
from training.deepen import placed
from training.segments import NO_LABEL
from training.video.architecture import WORD_ID
from training.video.packing import NAMED_WORDS, SIDE_WORDS, Batch, Frame, Looks, Shape
from training.video.tower import GROUND_WEIGHT, NO_DIGIT
from training.watching import plain_attention, watching

HOPS = (3, 5)
"""Layers of the shallow decoder (from 0) of the two hops: what is named, then what is asked."""
KNOWS_PLACE, KNOWS_PAST, KNOWS_BESIDE = 1, 2, 4
"""Layers of the shallow decoder behind which vision tokens know."""
ASKED_IDS = [[WORD_ID[word] for word in words] for words in (SIDE_WORDS, NAMED_WORDS)]
ASKED_WEIGHT = 2.0
ALONE_WEIGHT = 0.2
"""Of digits beside which there is none: they are many."""


@contextmanager
def observed(
    decoder: PreTrainedModel,
) -> Iterator[tuple[dict[int, tuple[torch.Tensor, torch.Tensor]], dict[int, torch.Tensor]]]:
    """Queries and keys of the layers of the hops, and what comes out of those that know."""
    depth, states = decoder.config.num_hidden_layers, {}
    handles = [
        decoder.layers[placed(layer, depth)].register_forward_hook(
            lambda _, __, out, layer=layer: states.__setitem__(layer, out)
        )
        for layer in (KNOWS_PLACE, KNOWS_PAST, KNOWS_BESIDE)
    ]
    try:
        with watching(
            decoder, [placed(layer, depth) for layer in HOPS], plain_attention
        ) as captured:
            yield captured, states
    finally:
        for handle in handles:
            handle.remove()


def looking_loss(
    captured: dict[int, tuple[torch.Tensor, torch.Tensor]], looks: Looks, frame: Frame
) -> torch.Tensor:
    """How far attention is from where it should go, mean over heads and words, summed over hops."""
    length = len(frame.prefix)
    words, hops = torch.tensor(looks.word), torch.tensor(looks.hop)
    sample, even = torch.tensor(looks.sample), torch.tensor(looks.even)
    share, group = torch.tensor(looks.share), torch.tensor(looks.group)
    goal = torch.zeros(len(words), length)
    for row, places in enumerate(looks.goal):
        goal[row, places] = 1.0
    total = goal.new_zeros(())
    for hop, (query, key) in captured.items():
        rows = (hops == hop).nonzero()[:, 0]
        at = length + words[rows]
        query = query.unflatten(1, (key.shape[1], -1))  # [B, groups, heads, L, d]
        query = query[sample[rows], group[rows], :, at].float()  # [R, heads, d]
        key = key[sample[rows], group[rows]].float()  # [R, L, d], the heads share it
        logits = torch.einsum("rhd,rld->rhl", query, key) * query.shape[-1] ** -0.5
        logits = logits.masked_fill(~frame.mask[0, 0, at][:, None], -torch.inf)
        logits = logits.log_softmax(-1)[..., :length]
        wanted = goal[rows][:, None]
        anyone = -(logits + wanted.log()).logsumexp(-1)
        all_alike = -(logits * wanted).sum(-1) / wanted.sum(-1)
        far = torch.where(even[rows][:, None], all_alike, anyone).mean(-1)
        total = total + (far * share[rows]).sum() / share[rows].sum()
    return total


class Knowing(nn.Module):
    """Linear read-outs from states of vision tokens: row, column, step; "was there before"; and which
    digits are left of and above theirs."""

    def __init__(self, width: int) -> None:
        """`width` of the decoder."""
        super().__init__()
        sizes = (MAX_STEPS, MAX_SIDE, MAX_SIDE)
        self.places = nn.ModuleList(nn.Linear(width, size) for size in sizes)
        self.before = nn.Linear(width, 2)
        self.beside = nn.ModuleList(nn.Linear(width, NO_DIGIT + 1) for _ in range(2))

    def forward(self, states: dict[int, torch.Tensor], batch: Batch, frame: Frame) -> torch.Tensor:
        """The loss, of states ``[B, L, D]``."""
        digit = batch.labels[..., 0] != NO_DIGIT
        weight = torch.where(digit, 1.0, GROUND_WEIGHT)
        where = places(batch.shape).expand(len(digit), -1, -1)
        place, past, near = (
            functional.rms_norm(states[layer][:, frame.vision].float(), states[layer].shape[-1:])
            for layer in (KNOWS_PLACE, KNOWS_PAST, KNOWS_BESIDE)
        )
        total = weighted(self.before(past), batch.seen_before, digit.float())
        for axis, head in enumerate(self.places):
            total = total + 0.3 * weighted(head(place), where[..., axis], weight)
        for side, head in enumerate(self.beside):
            label = batch.beside[..., side]
            some = torch.where(label == NO_DIGIT, ALONE_WEIGHT, 1.0) * (label != NO_LABEL)
            total = total + weighted(head(near), label.clamp(min=0), some)
        return total


def asked_loss(
    state: torch.Tensor, words: torch.Tensor, batch: Batch, frame: Frame
) -> torch.Tensor:
    """How badly words that answer read as what is asked for, of states ``[B, L, D]`` and embeddings."""
    state = state[:, len(frame.prefix) :].float()
    state = functional.rms_norm(state, state.shape[-1:])
    total = state.new_zeros(())
    for part, ids in enumerate(ASKED_IDS):
        label = batch.asked[..., part]
        logits = state @ words[ids].float().T
        total = total + weighted(logits, label.clamp(min=0), (label != NO_LABEL).float())
    return total


def places(shape: Shape) -> torch.Tensor:
    """Step, row and column of each vision token, ``[V, 3]``."""
    return torch.cat(
        [torch.cartesian_prod(*(torch.arange(size) for size in grid)) for grid in shape.grids]
    )


def weighted(logits: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted mean cross-entropy of logits ``[B, V, C]``."""
    loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return (loss * weight.flatten()).sum() / weight.sum().clamp(min=1e-6)
