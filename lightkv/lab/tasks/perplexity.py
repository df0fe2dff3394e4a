"""How likely the model finds reference answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from lightkv.lab.errors import TaskError
from lightkv.lab.outcomes import Outcome
from lightkv.lab.tasks.base import Reference, Sample, Task, build_task, outcome

if TYPE_CHECKING:
    from lightkv.lab.subject import Subject


class Perplexity(Task):
    """Mean log-probability of a token of the (first) reference answer, given picture and question.

    The prompt is prefilled compressed and the answer is read off the compressed cache. Scores are
    natural logarithms, at most 0; the perplexity of a cell is exp(−mean).

    Attributes:
        of: the task that gives pictures, questions and answers, as a name or `{name: …}`.
    """

    name: ClassVar[str] = "perplexity"
    accuracy: ClassVar[bool] = False
    batch_size: int = Field(default=8, ge=1)
    of: dict[str, Any]

    @field_validator("of", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        return build_task(value).spec()

    def samples(self) -> list[Sample]:
        return build_task(self.of).samples()

    def fingerprint(self) -> str:
        return build_task(self.of).fingerprint()

    def evaluate(
        self, subject: Subject, samples: Sequence[Sample], reference: Reference | None = None
    ) -> Iterator[Outcome]:
        for batch in self.batches(samples):
            answers = [sample.answers[0] for sample in batch]
            found = subject.log_likelihood(batch, answers)
            kept = subject.last_retentions or [1.0] * len(batch)
            rows = zip(batch, answers, found, kept, strict=True)
            for sample, answer, (total, tokens), retention in rows:
                if tokens == 0:
                    raise TaskError(
                        "an answer without tokens has no probability",
                        field="answers",
                        value=sample.id,
                        remedy="give answers that are not empty",
                    )
                yield outcome(sample, answer, total / tokens, retention)
