"""Questions about digit scenes, put to a model in batches and answered greedily.

Works on any model with ``generate``, also inside a context manager that changes it; nothing here
knows of compression.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from transformers import PreTrainedModel, ProcessorMixin

from lightkv.checkpoints.answers import greedy
from lightkv.checkpoints.prompts import batch_inputs
from lightkv.checkpoints.seen import Seen
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
    asked, seen = [q.text for q in questions], [Seen([scene.image]) for scene in scenes]
    inputs = batch_inputs(processor, asked, seen, model)
    return greedy(model, processor, inputs, answer_tokens(q.kind for q in questions))


def answer_tokens(kinds: Iterable[str]) -> int:
    """Tokens that answers to questions of these kinds may have, the end token included."""
    return LIST_ANSWER_TOKENS if "list" in kinds else SHORT_ANSWER_TOKENS


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
