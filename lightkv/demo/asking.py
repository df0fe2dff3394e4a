"""Questions about digit scenes, put to a model in batches and answered greedily.

Works on any model with ``generate``, also inside a context manager that changes it; nothing here
knows of compression.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from transformers import PreTrainedModel, ProcessorMixin

from lightkv.checkpoints.answers import greedy
from lightkv.checkpoints.prompts import batch_inputs, conversation_text, processed
from lightkv.demo.clips import Clip
from lightkv.demo.native import Pair
from lightkv.demo.scenes import MAX_DIGITS, Kind, Question, Scene

Sample = tuple[Scene, list[Question]]
SHORT_ANSWER_TOKENS = 2
LIST_ANSWER_TOKENS = 2 * MAX_DIGITS + 1


def answer(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    scenes: Sequence[Scene],
    questions: Sequence[Question],
) -> list[str]:
    """The model's greedy answers to one question for each scene, in one left-padded batch."""
    asked, pictures = [q.text for q in questions], [scene.image for scene in scenes]
    inputs = batch_inputs(processor, asked, pictures, model)
    is_list = any(question.kind == "list" for question in questions)
    limit = LIST_ANSWER_TOKENS if is_list else SHORT_ANSWER_TOKENS
    return greedy(model, processor, inputs, limit)


def answer_about(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    seen: Scene | Pair | Clip,
    questions: Sequence[Question],
) -> list[str]:
    """The second model's greedy answers to questions about one picture, pair or clip, in one
    left-padded batch."""
    if isinstance(seen, Clip):
        given, kinds = {"videos": [[seen.frames]] * len(questions)}, ["video"]
    else:
        scenes = [seen] if isinstance(seen, Scene) else [seen.first, seen.second]
        given = {"images": [[scene.image for scene in scenes]] * len(questions)}
        kinds = ["image"] * len(scenes)
    texts = []
    for question in questions:
        content = [*({"type": kind} for kind in kinds), {"type": "text", "text": question.text}]
        texts.append(conversation_text(processor, [{"role": "user", "content": content}]))
    inputs = processed(processor, texts, model, padding=True, **given)
    is_list = any(question.kind == "list" for question in questions)
    limit = LIST_ANSWER_TOKENS if is_list else SHORT_ANSWER_TOKENS
    return greedy(model, processor, inputs, limit)


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
