"""Accuracy of a model on digit scenes, by kind of question, with greedy generation.

Works on any model with ``generate``, also inside a context manager that changes it; nothing here
knows of compression.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from transformers import PreTrainedModel, ProcessorMixin

from lightkv.demo.scenes import KINDS, MAX_DIGITS, Kind, Question, Scene, prompt, score

Sample = tuple[Scene, list[Question]]
Progress = Callable[[int, int], None]
SHORT_ANSWER_TOKENS = 2
LIST_ANSWER_TOKENS = 2 * MAX_DIGITS + 1


def answer(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    scenes: Sequence[Scene],
    questions: Sequence[Question],
) -> list[str]:
    """The model's greedy answers to one question for each scene, in one left-padded batch."""
    inputs = processor(
        images=[scene.image for scene in scenes],
        text=[prompt(question.text) for question in questions],
        return_tensors="pt",
        padding=True,
    ).to(model.device)
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    is_list = any(question.kind == "list" for question in questions)
    limit = LIST_ANSWER_TOKENS if is_list else SHORT_ANSWER_TOKENS
    with torch.no_grad():
        generated = cast(Any, model).generate(**inputs, max_new_tokens=limit, do_sample=False)
    new = generated[:, inputs["input_ids"].shape[1] :]
    decoded = processor.tokenizer.batch_decode(new, skip_special_tokens=True)
    return [text.strip() for text in decoded]


def batches(
    samples: Sequence[Sample], kind: Kind, size: int
) -> Iterator[tuple[list[Scene], list[Question]]]:
    """Scenes and their questions of one kind, `size` at a time, prompts of equal length together
    so that nothing needs padding."""
    pairs = [(scene, q) for scene, questions in samples for q in questions if q.kind == kind]
    pairs.sort(key=lambda pair: len(pair[1].text.split()))  # stable
    for start in range(0, len(pairs), size):
        chunk = pairs[start : start + size]
        yield [scene for scene, _ in chunk], [question for _, question in chunk]


def evaluate(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    samples: Sequence[Sample],
    kinds: Sequence[Kind] = KINDS,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Mean score by kind of question on `samples` (as of `held_out_scenes`).

    A kind for which no sample has a question is left out. `progress` is called with the numbers
    of questions answered and asked for.
    """
    total = sum(q.kind in kinds for _, questions in samples for q in questions)
    done, result = 0, {}
    for kind in kinds:
        scores: list[float] = []
        for scenes, questions in batches(samples, kind, batch_size):
            texts = answer(model, processor, scenes, questions)
            scores += [score(q, text) for q, text in zip(questions, texts, strict=True)]
            done += len(questions)
            if progress is not None:
                progress(done, total)
        if scores:
            result[str(kind)] = sum(scores) / len(scores)
    return result
