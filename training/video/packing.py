"""Many questions about one picture, clip or pair in one training sequence.

The sequence is what is seen once, then one segment for each question with its answer. A segment sees
the prefix and itself, and its positions start right after what is seen, so each question is trained
exactly as it will be asked alone. All scenes of a batch have one shape: mask and positions are shared.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Qwen2_5_VLForConditionalGeneration

from lightkv.demo import clips, native, scenes
from lightkv.demo.clips import ClipDigit, compose_clip
from lightkv.demo.digits import Split
from lightkv.demo.native import PATCHES_PER_SLOT, compose_pair
from lightkv.demo.scenes import Canvas, PlacedDigit, Question, compose_scene
from training.segments import NO_LABEL, block_mask, question_words, segment_positions
from training.video.architecture import END, FRAMES, IMAGE, MOTION_WORDS, START, VIDEO, WORD_ID
from training.video.tower import NO_COLOR, NO_DIGIT, STILL, patches, tower_tokens
from training.words import BOS, EOS, PAD

Group = Literal["picture", "clip", "pair"]
GROUPS: tuple[Group, ...] = ("picture", "clip", "pair")
Grid = tuple[int, int, int]
"""Steps, rows and columns of vision tokens."""
SEGMENTS: dict[Group, tuple[str, ...]] = {
    "picture": (
        *("color_to_digit",) * 2,
        *("digit_to_color",) * 3,
        *("exists",) * 3,
        "count",
        *("spatial",) * 4,
        "list",
    ),
    "clip": (
        *("color_to_digit",) * 2,
        "digit_to_color",
        "exists",
        "count",
        *("motion",) * 4,
        "last",
        *("moment",) * 4,
    ),
    "pair": ("both", "only_second", *("second_color",) * 3),
}
LENGTHS = {
    "color_to_digit": 8,
    "digit_to_color": 8,
    "exists": 8,
    "count": 8,
    "spatial": 12,
    "list": 5 + 2 * scenes.MAX_DIGITS,
    "motion": 8,
    "last": 8,
    "moment": 11,
    "both": 9,
    "only_second": 11,
    "second_color": 11,
}
_SHARE = {
    "count": 2.0,
    "last": 2.0,
    "both": 2.0,
    "only_second": 2.0,
    "spatial": 2.0,
    "motion": 2.0,
    "moment": 1.5,
    "list": 0.35,
}
_EOS_SHARE = 0.1
_LOOK_SHARE = {"motion": 3.0, "moment": 2.0}
"""Of kinds that are slow to be found, in the loss of looking."""
SIDE_WORDS = (*MOTION_WORDS, "above")
NAMED_WORDS = (*scenes.DIGIT_WORDS, *scenes.COLOR_WORDS)
"""What questions differ in: a side, and what they name."""
_BY_TIME = ("motion", "last", "moment")
"""Kinds that look with the second group of heads: the keys of one hold digits and colours already."""
LIVELY = {"still_share": 0.1, "brief_share": 0.2}
"""Clips with more motion than those that are asked about, in which 1.3 digits move in the mean."""
PREFIX = (BOS, "user", ":")


@dataclass(frozen=True)
class Shape:
    """What all scenes of a batch have in common: the grid of each picture, or of the clip."""

    group: Group
    grids: tuple[Grid, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of question of each segment."""
        return SEGMENTS[self.group]

    @property
    def starts(self) -> list[int]:
        """Where segments begin behind the prefix, and the end of the last."""
        return [0, *np.cumsum([LENGTHS[kind] for kind in self.kinds]).tolist()]


@dataclass
class Seen:
    """One scene: its frames and what there is to know about it. Tokens count over all grids."""

    frames: list[NDArray[np.uint8]]  # [steps, 2, H, W, 3] of each grid
    digits: list[PlacedDigit] | list[ClipDigit]
    tokens: list[list[int]]
    """Vision tokens of each digit, in order of time."""
    questions: list[Question | None]
    beside: list[tuple[int, int]]
    """Which digit is left of and above each digit of a picture, or `NO_DIGIT`; empty for clips."""


@dataclass
class Looks:
    """Where words should look. R of them, over the prefix of length L."""

    sample: list[int] = field(default_factory=list)
    word: list[int] = field(default_factory=list)
    """Position behind the prefix."""
    hop: list[int] = field(default_factory=list)
    goal: list[list[int]] = field(default_factory=list)
    """Positions in the prefix; any of them will do, unless all must be looked at."""
    group: list[int] = field(default_factory=list)
    """Group of heads (those that share keys) that should look."""
    share: list[float] = field(default_factory=list)
    """In the loss."""
    even: list[bool] = field(default_factory=list)
    """All positions of the goal must get the same attention: counting."""


@dataclass
class Batch:
    """Packed scenes of one shape. V vision tokens, T words behind the prefix."""

    shape: Shape
    pixels: list[torch.Tensor]  # [B x steps, P, 96] of each grid
    labels: torch.Tensor  # [B, V, 3] of `tower.GROUPS`
    beside: torch.Tensor  # [B, V, 2] the digits left of and above the token's, or NO_LABEL
    seen_before: torch.Tensor  # [B, V] 1 where the digit was in an earlier step or picture
    text: torch.Tensor  # [B, T] word ids
    targets: torch.Tensor  # [B, T] the word that must come next, or NO_LABEL
    weights: torch.Tensor  # [B, T] of the targets in the loss
    asked: (
        torch.Tensor
    )  # [B, T, 2] of words that answer: index of the side and of the name asked for
    looks: Looks


@dataclass(frozen=True)
class Frame:
    """Mask, positions and prefix that belong to a shape."""

    prefix: torch.Tensor  # [L] word ids, placeholders where vision tokens go
    vision: torch.Tensor  # [V] their positions
    mask: torch.Tensor  # [1, 1, L + T, L + T] who sees whom
    positions: torch.Tensor  # [3, 1, L + T]


@functools.lru_cache(maxsize=64)
def frame_of(shape: Shape, model: Qwen2_5_VLForConditionalGeneration) -> Frame:
    """What belongs to `shape`; the prefix's positions are the model's own."""
    pad = VIDEO if shape.group == "clip" else IMAGE
    words = [*PREFIX]
    for steps, rows, cols in shape.grids:
        words += [START, *[pad] * (steps * rows * cols), END]
    prefix = torch.tensor([WORD_ID[word] for word in words])
    kind = 2 if shape.group == "clip" else 1
    sizes = torch.tensor([(steps, 2 * rows, 2 * cols) for steps, rows, cols in shape.grids])
    given = {"video_grid_thw": sizes, "second_per_grid_ts": torch.tensor([FRAMES / 24])}
    positions, _ = model.model.get_rope_index(
        prefix[None],
        mm_token_type_ids=(prefix == WORD_ID[pad]).int()[None] * kind,
        **(given if kind == 2 else {"image_grid_thw": sizes}),
    )
    behind = segment_positions(shape.starts) + int(positions[:, 0, -1].max()) + 1
    return Frame(
        prefix,
        (prefix == WORD_ID[pad]).nonzero()[:, 0],
        block_mask(len(prefix), shape.starts),
        torch.cat([positions, behind.expand(3, 1, -1)], dim=-1),
    )


def see(
    rng: np.random.Generator,
    shape: Shape,
    most: int,
    split: Split,
    bank: NDArray[np.float32] | None,
    lively: float = 0.0,
) -> Seen:
    """A random scene of at most `most` digits (in each picture of a pair) and its questions; a share
    `lively` of clips has more motion."""
    if shape.group == "clip":
        ((steps, rows, cols),) = shape.grids
        count = crowd(rng, min(most, clips.MAX_DIGITS))
        shares = LIVELY if rng.random() < lively else {}
        frames, digits = compose_clip(rng, split, steps, rows, cols, count, bank, **shares)
        tokens = [
            [((one.first + i) * rows + row) * cols + col for i, (row, col) in enumerate(one.cells)]
            for one in digits
        ]
        questions = clip_questions(digits, steps, rng)
        pairs = frames.reshape(steps, FRAMES, *frames.shape[1:])
        return Seen([pairs], digits, tokens, questions, [])
    canvases = [Canvas(rows, cols, PATCHES_PER_SLOT) for _, rows, cols in shape.grids]
    if shape.group == "picture":
        made = [compose_scene(rng, split, crowd(rng, most), bank, canvases[0])]
        questions = picture_questions(made[0][1], rng)
    else:
        most = min(most, native.MAX_PAIR_DIGITS)
        made = compose_pair(rng, split, (canvases[0], canvases[1]), bank, most)
        questions = pair_questions(made[0][1], made[1][1], rng)
    offset, tokens = 0, []
    for canvas, (_, placed) in zip(canvases, made, strict=True):
        tokens += [[offset + one.patch[0] * canvas.cols + one.patch[1]] for one in placed]
        offset += canvas.rows * canvas.cols
    frames = [np.stack([pixels] * FRAMES)[None] for pixels, _ in made]
    digits = [one for _, placed in made for one in placed]
    beside = [found for _, placed in made for found in digits_beside(placed)]
    return Seen(frames, digits, tokens, questions, beside)


def digits_beside(digits: list[PlacedDigit]) -> list[tuple[int, int]]:
    """Which digit is left of and above each of a picture, as questions mean it."""
    found = []
    for index in range(len(digits)):
        near = [scenes.neighbour(digits, index, side) for side in ("left", "above")]
        left, above = (NO_DIGIT if one is None else digits[one].digit for one in near)
        found.append((left, above))
    return found


def crowd(rng: np.random.Generator, most: int) -> int:
    """A number of digits from 1 to `most`, the largest most often."""
    return most if rng.random() < 0.35 else int(rng.integers(1, most + 1))


def picture_questions(digits: list[PlacedDigit], rng: np.random.Generator) -> list[Question | None]:
    """One question for each segment of a picture; None where it is not defined."""
    spatial = [
        scenes.spatial_question(digits, side, index)
        for side in ("left", "above")
        for index in range(len(digits))
    ]
    made: list[Question | None] = []
    for kind in SEGMENTS["picture"]:
        index = int(rng.integers(len(digits)))
        if kind == "color_to_digit":
            made.append(scenes.color_to_digit_question(digits, index))
        elif kind == "digit_to_color":
            made.append(scenes.digit_to_color_question(digits, index))
        elif kind == "exists":
            made.append(scenes.random_exists(digits, rng))
        elif kind == "count":
            made.append(scenes.count_question(digits))
        elif kind == "spatial":
            made.append(draw(rng, spatial))
        else:
            made.append(scenes.list_question(digits))
    return made


def draw(rng: np.random.Generator, questions: list[Question | None]) -> Question | None:
    """Take a random defined question out of a list; None where none is left."""
    defined = [i for i, question in enumerate(questions) if question is not None]
    return questions.pop(int(rng.choice(defined))) if defined else None


def clip_questions(
    digits: list[ClipDigit], steps: int, rng: np.random.Generator
) -> list[Question | None]:
    """One question for each segment of a clip; None where it is not defined."""
    several = {
        "motion": [clips.motion_question(digits, motion) for motion in clips.MOTIONS],
        "moment": [clips.moment_question(digits, steps, i) for i in range(len(digits))],
    }
    return [
        draw(rng, several[kind])
        if kind in several
        else clips.clip_question(digits, steps, kind, rng)  # type: ignore[arg-type]
        for kind in SEGMENTS["clip"]
    ]


def pair_questions(
    first: list[PlacedDigit], second: list[PlacedDigit], rng: np.random.Generator
) -> list[Question | None]:
    """One question for each segment of a pair; None where it is not defined."""
    made = [native.both_question(first, second), native.only_second_question(first, second)]
    return made + [native.second_color_question(first, second, rng) for _ in range(3)]


def token_labels(shape: Shape, seen: Seen) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels ``[V, 3]`` of what each token shows, and ``[V]`` whether its digit was seen before."""
    count = sum(steps * rows * cols for steps, rows, cols in shape.grids)
    labels, before = np.empty((count, 3), dtype=np.int64), np.zeros(count, dtype=np.int64)
    labels[:] = NO_DIGIT, NO_COLOR, STILL
    known: set[int] = set()
    for one, tokens in zip(seen.digits, seen.tokens, strict=True):
        motion = getattr(one, "motion", None)
        kind = STILL if motion is None else MOTION_WORDS.index(motion)
        labels[tokens] = one.digit, scenes.COLOR_WORDS.index(one.color), kind
        before[tokens[1:]] = 1
        before[tokens[0]] = one.digit in known
        known.add(one.digit)
    return labels, before


def beside_labels(count: int, seen: Seen) -> NDArray[np.int64]:
    """Labels ``[V, 2]`` of what is left of and above the digit of each token."""
    labels = np.full((count, 2), NO_LABEL)
    for near, tokens in zip(seen.beside, seen.tokens, strict=False):
        labels[tokens] = near
    return labels


def asked_for(question: Question) -> tuple[int, int]:
    """Which of `SIDE_WORDS` and of `NAMED_WORDS` a question has, or `NO_LABEL`."""
    words = question.text.split()
    found = [
        next((known.index(word) for word in words if word in known), NO_LABEL)
        for known in (SIDE_WORDS, NAMED_WORDS)
    ]
    return found[0], found[1]


def hops(question: Question, seen: Seen) -> list[tuple[list[int] | None, list[int] | None]]:
    """The vision tokens where the words that predict the answer should look, near and far. None is
    nowhere in particular; -1 is the beginning of the sequence, where what is absent is looked for."""
    tokens = seen.tokens
    if question.kind == "count":
        firsts = [-1, *(one[0] for one in tokens)]
        return [(firsts, firsts)]
    if question.kind == "list":
        path: list[tuple[list[int] | None, list[int] | None]] = [(None, tokens[0])]
        for here, following in zip(tokens, [*tokens[1:], [-1]], strict=True):
            path += [(here, here), (here, following)]
        return path
    if question.target is None:
        return [([-1], [-1])]
    target = tokens[question.target]
    if question.kind == "last":
        return [(target[:1], target[:1])]
    if question.kind == "moment" and question.named is not None:
        digits: list[ClipDigit] = seen.digits  # type: ignore[assignment]
        named, other = digits[question.named], digits[question.target]
        around = [tokens[question.target][named.last + i - other.first] for i in (0, 1)]
        return [(tokens[question.named][-1:], around)]
    if question.kind == "both":
        twin = next(i for i, one in enumerate(seen.digits) if str(one.digit) == question.answer)
        either = tokens[twin] + target
        return [(either, either)]
    if question.named is None:
        return [(target, target)]
    named = tokens[question.named]
    # A digit's token knows what is beside it, so the answer can be read there as well.
    return [(named, named + target if question.kind == "spatial" else target)]


def make_batch(
    rng: np.random.Generator,
    shape: Shape,
    size: int,
    most: int,
    split: Split,
    frame: Frame,
    bank: NDArray[np.float32] | None = None,
    lively: float = 0.0,
) -> Batch:
    """`size` packed scenes of one shape; `lively` as in `see`."""
    length = shape.starts[-1]
    text = np.full((size, length), WORD_ID[PAD])
    targets = np.full((size, length), NO_LABEL)
    weights = np.zeros((size, length), dtype=np.float32)
    asked = np.full((size, length, 2), NO_LABEL)
    looks, scenes_made, labels, before, beside = Looks(), [], [], [], []
    at = [*frame.vision.tolist(), 0]  # the last one is the beginning
    for row in range(size):
        seen = see(rng, shape, most, split, bank, lively)
        scenes_made.append(seen)
        label, was = token_labels(shape, seen)
        labels.append(label)
        before.append(was)
        beside.append(beside_labels(len(label), seen))
        for start, question in zip(shape.starts, seen.questions, strict=False):
            if question is None:
                continue
            ask = [WORD_ID[word] for word in question_words(question)]
            answer = [WORD_ID[word] for word in question.answer.split()]
            first, end = start + len(ask) - 1, start + len(ask) + len(answer)
            text[row, start:end] = ask + answer
            targets[row, first:end] = [*answer, WORD_ID[EOS]]
            weights[row, first:end] = _SHARE.get(question.kind, 1.0)
            weights[row, end - 1] = _EOS_SHARE
            asked[row, first] = asked_for(question)
            for word, pair in enumerate(hops(question, seen), start=first):
                for hop, tokens in enumerate(pair):
                    if tokens is not None:
                        looks.sample.append(row)
                        looks.word.append(word)
                        looks.hop.append(hop)
                        looks.goal.append([at[token] for token in tokens])
                        looks.group.append(int(question.kind in _BY_TIME))
                        looks.share.append(_LOOK_SHARE.get(question.kind, 1.0))
                        looks.even.append(question.kind == "count")
    return Batch(
        shape,
        [
            patches(np.concatenate([seen.frames[i] for seen in scenes_made]))
            for i in range(len(shape.grids))
        ],
        *(torch.from_numpy(np.stack(arrays)) for arrays in (labels, beside, before)),
        *(torch.from_numpy(array) for array in (text, targets, weights, asked)),
        looks,
    )


def vision_features(model: Qwen2_5_VLForConditionalGeneration, batch: Batch) -> torch.Tensor:
    """Vision tokens of packed scenes as the tower makes them, ``[B, V, D]``."""
    size = len(batch.text)
    made = [
        tower_tokens(model.model.visual, pixels, rows, cols).reshape(size, steps * rows * cols, -1)
        for pixels, (steps, rows, cols) in zip(batch.pixels, batch.shape.grids, strict=True)
    ]
    return torch.cat(made, dim=1)


def packed_forward(
    model: Qwen2_5_VLForConditionalGeneration, batch: Batch, frame: Frame, image: torch.Tensor
) -> torch.Tensor:
    """Hidden states of the words behind the prefix, ``[B, T, D]``; the head is left to the caller."""
    words = torch.cat([frame.prefix.expand(len(batch.text), -1), batch.text], dim=1)
    sequence = model.get_input_embeddings()(words)
    sequence = sequence.index_copy(1, frame.vision, image.to(sequence.dtype))
    hidden = model.model.language_model(
        inputs_embeds=sequence,
        attention_mask=frame.mask,
        position_ids=frame.positions.expand(-1, len(words), -1),
        use_cache=False,
    ).last_hidden_state
    return hidden[:, len(frame.prefix) :]


def kind_of_word(shape: Shape) -> list[str]:
    """The kind of question of each word behind the prefix, ``[T]``."""
    return [kind for kind in shape.kinds for _ in range(LENGTHS[kind])]
