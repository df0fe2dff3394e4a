"""Scores by kind of question: what tests hold the figures of the lab and of the demo against."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedModel, ProcessorMixin

from lightkv.demo.asking import Sample, answer, batches
from lightkv.demo.scenes import KINDS, Kind, score
from lightkv.lab.outcomes import Outcome

Progress = Callable[[int, int], None]


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


def by_kind(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Kind of question → its outcomes, in the order of first appearance."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.kind, []).append(outcome)
    return found
