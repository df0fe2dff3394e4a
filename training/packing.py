"""Many questions about one picture in one training sequence.

The sequence is prefix and picture once, then one segment per question with its answer. A segment
sees the prefix, the picture and itself, and its positions start right after the picture, so each
question is trained exactly as it will be asked alone, at a fraction of the cost. Segments have
fixed lengths, hence mask and positions are the same for every scene.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlavaForConditionalGeneration

from lightkv.demo.digits import Split
from lightkv.demo.scenes import (
    GRID,
    KINDS,
    MAX_DIGITS,
    Kind,
    PlacedDigit,
    Question,
    color_to_digit_question,
    compose_scene,
    count_question,
    digit_to_color_question,
    list_question,
    random_exists,
    random_spatial,
)
from training.architecture import EOS, PAD, PREFIX, VISION_TOKENS, WORD_ID
from training.segments import NO_LABEL, block_mask, question_words, segment_positions
from training.tower import normalise, patch_labels, tower_features

SEGMENTS: tuple[Kind, ...] = (
    *("color_to_digit",) * 3,
    *("digit_to_color",) * 4,
    *("exists",) * 3,
    "count",
    *("spatial",) * 5,
    "list",
)
_LENGTHS: dict[Kind, int] = {
    "color_to_digit": 8,
    "digit_to_color": 8,
    "exists": 8,
    "count": 8,
    "spatial": 12,
    "list": 5 + 2 * MAX_DIGITS,
}
STARTS = tuple(np.cumsum([0, *(_LENGTHS[kind] for kind in SEGMENTS)]).tolist())
TEXT_LENGTH = STARTS[-1]
PREFIX_LENGTH = len(PREFIX)
IMAGE_END = PREFIX_LENGTH + VISION_TOKENS
NOWHERE, EVERYWHERE = -1, -2
"""Pointer targets: no supervision, and "all digits at once" (counting)."""
_SHARE: dict[Kind, float] = {
    "color_to_digit": 1.0,
    "digit_to_color": 1.0,
    "exists": 1.0,
    "count": 2.5,  # one segment only, and slow to learn, as is the next
    "spatial": 1.4,
    "list": 0.35,
}
_EOS_SHARE = 0.1


@dataclass
class Batch:
    """Packed scenes. T is `TEXT_LENGTH`, everything after the picture."""

    pixels: torch.Tensor  # [B, 3, 96, 96]
    patches: torch.Tensor  # [B, 144, 4] labels of `tower.patch_labels`
    text: torch.Tensor  # [B, T] word ids
    labels: torch.Tensor  # [B, T] the word that must come next, or NO_LABEL
    weights: torch.Tensor  # [B, T] of the labels in the loss
    pointers: torch.Tensor  # [B, T, 2] sequence position to look at in the near and far hop


def questions_for(digits: list[PlacedDigit], rng: np.random.Generator) -> list[Question | None]:
    """One question for each segment; None where it is not defined."""
    made: list[Question | None] = []
    for kind in SEGMENTS:
        index = int(rng.integers(len(digits)))
        if kind == "color_to_digit":
            made.append(color_to_digit_question(digits, index))
        elif kind == "digit_to_color":
            made.append(digit_to_color_question(digits, index))
        elif kind == "exists":
            made.append(random_exists(digits, rng))
        elif kind == "count":
            made.append(count_question(digits))
        elif kind == "spatial":
            made.append(random_spatial(digits, rng))
        else:
            made.append(list_question(digits))
    return made


def hops(question: Question, digits: list[PlacedDigit]) -> list[tuple[int, int]]:
    """Where the words that predict the answer should look: (near, far) for each of them.

    The near hop finds what the question (or the list so far) names, the far hop what is asked.
    A digit that is absent is looked for at position 0, the ``<bos>`` token.
    """
    place = [PREFIX_LENGTH + placed.patch[0] * GRID + placed.patch[1] for placed in digits]
    if question.kind == "count":
        return [(EVERYWHERE, EVERYWHERE)]
    if question.kind == "list":
        path = [(NOWHERE, place[0])]
        for here, following in zip(place, [*place[1:], 0], strict=True):
            path += [(here, here), (here, following)]
        return path
    named = 0 if question.named is None else place[question.named]
    return [(named, 0 if question.target is None else place[question.target])]


def write_segment(
    question: Question,
    digits: list[PlacedDigit],
    start: int,
    text: NDArray[np.int64],
    labels: NDArray[np.int64],
    weights: NDArray[np.float32],
    pointers: NDArray[np.int64],
) -> None:
    """Write one question into the rows of its scene, in place."""
    ask = [WORD_ID[word] for word in question_words(question)]
    answer = [WORD_ID[word] for word in question.answer.split()]
    end = start + len(ask) + len(answer)
    text[start:end] = ask + answer
    first = start + len(ask) - 1
    labels[first:end] = [*answer, WORD_ID[EOS]]
    weights[first:end] = _SHARE[question.kind]
    weights[end - 1] = _EOS_SHARE
    path = hops(question, digits)
    pointers[first : first + len(path)] = path


def make_batch(
    rng: np.random.Generator,
    counts: list[int],
    split: Split,
    bank: NDArray[np.float32] | None = None,
) -> Batch:
    """One packed scene for each of `counts`, the numbers of digits."""
    size = len(counts)
    text = np.full((size, TEXT_LENGTH), WORD_ID[PAD])
    labels = np.full((size, TEXT_LENGTH), NO_LABEL)
    weights = np.zeros((size, TEXT_LENGTH), dtype=np.float32)
    pointers = np.full((size, TEXT_LENGTH, 2), NOWHERE)
    pictures, patches = [], []
    for row, count in enumerate(counts):
        picture, digits = compose_scene(rng, split, count, bank)
        pictures.append(picture)
        patches.append(patch_labels(digits))
        for start, question in zip(STARTS, questions_for(digits, rng), strict=False):
            if question is not None:
                rows = text[row], labels[row], weights[row], pointers[row]
                write_segment(question, digits, start, *rows)
    arrays = (np.stack(patches), text, labels, weights, pointers)
    return Batch(normalise(np.stack(pictures)), *(torch.from_numpy(array) for array in arrays))


def packed_mask() -> torch.Tensor:
    """Who sees whom: bool ``[1, 1, L, L]``, L = `IMAGE_END` + `TEXT_LENGTH`."""
    return block_mask(IMAGE_END, STARTS)


def packed_positions() -> torch.Tensor:
    """Positions ``[1, L]``; each segment starts right after the picture."""
    return torch.cat([torch.arange(IMAGE_END), segment_positions(STARTS) + IMAGE_END])[None]


def packed_forward(
    model: LlavaForConditionalGeneration,
    batch: Batch,
    mask: torch.Tensor,
    positions: torch.Tensor,
    train_tower: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run packed scenes: hidden states of the text ``[B, T, D]`` and projected patches
    ``[B, 144, D]``. The head is left to the caller, who needs few of the positions."""
    with torch.set_grad_enabled(train_tower and torch.is_grad_enabled()):
        features = tower_features(model.model.vision_tower, batch.pixels)
    image = model.model.multi_modal_projector(features)
    embed = model.get_input_embeddings()
    prefix = embed(torch.tensor([[WORD_ID[word] for word in PREFIX]])).expand(len(image), -1, -1)
    sequence = torch.cat([prefix, image.to(prefix.dtype), embed(batch.text)], dim=1)
    hidden = model.model.language_model(
        inputs_embeds=sequence, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    return hidden[:, IMAGE_END:], image


def kind_of_position() -> torch.Tensor:
    """Index into `KINDS` for each text position, ``[T]``."""
    lengths = torch.tensor([_LENGTHS[kind] for kind in SEGMENTS])
    return torch.tensor([KINDS.index(kind) for kind in SEGMENTS]).repeat_interleave(lengths)
