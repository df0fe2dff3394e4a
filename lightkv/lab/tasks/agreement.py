"""Agreement with the uncompressed model, where nobody knows the right answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from lightkv.lab.outcomes import Outcome
from lightkv.lab.tasks.base import Reference, Sample, Task, answered, build_task
from lightkv.lab.tasks.scoring import MEASURES, Measure

if TYPE_CHECKING:
    from lightkv.lab.subject import Subject


class Agreement(Task):
    """The answers of the uncompressed model are the truth; no labels are needed.

    Attributes:
        of: the task that gives pictures and questions, as a name or `{name: …, parameter: …}`; its
            answers are not looked at.
        measure: `exact` (the same answer, after normalisation; for short answers) or `overlap`
            (share of words in common, in order: 0 to 1; for captions).
        max_new_tokens: of an answer.
    """

    name: ClassVar[str] = "agreement"
    needs_reference: ClassVar[bool] = True
    batch_size: int = Field(default=8, ge=1)
    of: dict[str, Any]
    measure: Measure = "exact"
    max_new_tokens: int = Field(default=32, ge=1)

    @field_validator("of", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        return build_task(value).spec()

    def samples(self) -> list[Sample]:
        inner = build_task(self.of)
        read = getattr(inner, "read", inner.samples)
        found: list[Sample] = read()
        return found

    def fingerprint(self) -> str:
        return build_task(self.of).fingerprint()

    def evaluate(
        self, subject: Subject, samples: Sequence[Sample], reference: Reference | None = None
    ) -> Iterator[Outcome]:
        measure = MEASURES[self.measure]

        def judge(sample: Sample, answer: str) -> float:
            truth = answer if reference is None else reference[sample.id]
            return measure(answer, (truth,))

        for batch in self.batches(samples):
            yield from answered(subject, batch, self.max_new_tokens, judge)
