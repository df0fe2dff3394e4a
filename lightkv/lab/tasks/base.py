"""What a task is: samples, and outcomes of a subject on them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from lightkv.core.strict import Plain
from lightkv.lab.errors import TaskError
from lightkv.lab.outcomes import Outcome, Sample

if TYPE_CHECKING:
    from lightkv.lab.subject import Subject

Reference = Mapping[str, str]
"""Sample → answer of the uncompressed model."""


class Task(Plain, ABC):
    """Samples and how they are scored. Parameters are pydantic fields, so a task is plain data.

    Which samples share a batch is a function of the samples and of `batch_size` alone, so a task
    gives the same outcomes however its cells are spread over processes.

    Class attributes:
        name: in grids and on the command line.
        needs_reference: whether outcomes are relative to answers of the uncompressed model.
        accuracy: whether scores are shares of right answers, in 0 to 1.
    """

    name: ClassVar[str]
    needs_reference: ClassVar[bool] = False
    accuracy: ClassVar[bool] = True

    batch_size: int = Field(default=64, ge=1)

    @abstractmethod
    def samples(self) -> list[Sample]:
        """All samples, always the same in the same order.

        Raises:
            TaskError: data that cannot be used.
        """

    @abstractmethod
    def evaluate(
        self, subject: Subject, samples: Sequence[Sample], reference: Reference | None = None
    ) -> Iterator[Outcome]:
        """Outcomes of the subject, as it is now, in any order.

        Args:
            subject: in a session or not.
            samples: some or all of `samples()`.
            reference: answers of the uncompressed model, for tasks that need them; None while the
                uncompressed model itself is evaluated.
        """

    def spec(self) -> dict[str, Any]:
        """The task as plain data, with all parameters; `build_task` reads it back."""
        return {"name": self.name, **self.model_dump(mode="json")}

    def fingerprint(self) -> str:
        """What else decides the outcomes: a digest of data outside the spec; "" if there is none."""
        return ""

    def batches(self, samples: Sequence[Sample]) -> Iterator[list[Sample]]:
        """Samples `batch_size` at a time, prompts of similar length together."""
        order = sorted(samples, key=lambda s: (s.kind, s.tokens, len(s.question.split())))
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]


def answered(
    subject: Subject, batch: list[Sample], limit: int, judge: Callable[[Sample, str], float]
) -> Iterator[Outcome]:
    """Outcomes of a batch: an answer to each sample, and its score.

    Args:
        limit: tokens of an answer.
        judge: (sample, answer) → score.
    """
    answers = subject.generate(batch, limit)
    kept = subject.last_retentions or [1.0] * len(batch)
    for sample, answer, retention in zip(batch, answers, kept, strict=True):
        yield outcome(sample, answer, judge(sample, answer), retention)


def outcome(sample: Sample, answer: str, score: float, retention: float) -> Outcome:
    """The outcome of a sample.

    Raises:
        TaskError: a score that no mean could hold.
    """
    if not math.isfinite(score):
        raise TaskError(f"sample {sample.id!r} has the score {score}, which is no number")
    return Outcome(
        sample.id, sample.cluster, sample.kind, sample.question, answer, float(score), retention
    )
