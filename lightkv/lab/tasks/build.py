"""Tasks by name, and those that are built on another task: agreement and perplexity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, ValidationError, field_validator

from lightkv.core.errors import check_known, nearest
from lightkv.core.strict import message_of
from lightkv.lab.errors import TaskError
from lightkv.lab.outcomes import Outcome, Sample
from lightkv.lab.tasks.base import Reference, Task, answered, outcome
from lightkv.lab.tasks.clips import Clips
from lightkv.lab.tasks.files import Files
from lightkv.lab.tasks.pairs import Pairs
from lightkv.lab.tasks.pictures import Pictures
from lightkv.lab.tasks.scenes import Scenes
from lightkv.lab.tasks.scoring import MEASURES, Measure

if TYPE_CHECKING:
    from lightkv.lab.subject import Subject


class Derived(Task):
    """A task whose pictures and questions are those of another task.

    Attributes:
        of: the other task, as a name or `{name: …, parameter: …}`.
    """

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


class Agreement(Derived):
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
    measure: Measure = "exact"
    max_new_tokens: int = Field(default=32, ge=1)

    def samples(self) -> list[Sample]:
        inner = build_task(self.of)
        read = getattr(inner, "read", inner.samples)
        found: list[Sample] = read()
        return found

    def evaluate(
        self, subject: Subject, samples: Sequence[Sample], reference: Reference | None = None
    ) -> Iterator[Outcome]:
        measure = MEASURES[self.measure]

        def judge(sample: Sample, answer: str) -> float:
            truth = answer if reference is None else reference[sample.id]
            return measure(answer, (truth,))

        for batch in self.batches(samples):
            yield from answered(subject, batch, self.max_new_tokens, judge)


class Perplexity(Derived):
    """Mean log-probability of a token of the (first) reference answer, given picture and question.

    The prompt is prefilled compressed and the answer is read off the compressed cache. Scores are
    natural logarithms, at most 0; the perplexity of a cell is exp(−mean).

    Attributes:
        of: the task that gives pictures, questions and answers, as a name or `{name: …}`.
    """

    name: ClassVar[str] = "perplexity"
    accuracy: ClassVar[bool] = False

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


def tasks() -> dict[str, type[Task]]:
    """Name → task."""
    found = (Scenes, Pictures, Pairs, Clips, Files, Agreement, Perplexity)
    return {task.name: task for task in found}


def build_task(source: Any) -> Task:
    """A task from its name or `{name: …, parameter: …}`.

    Raises:
        TaskError: an unknown task or parameter, or a value of the wrong kind.
    """
    if isinstance(source, Task):
        return source
    data = {"name": source} if isinstance(source, str) else source
    if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
        raise TaskError(
            "a task is a name or a mapping with name and parameters",
            field="task",
            value=source,
            remedy="such as {name: scenes, scenes: 500, seed: 2026}",
        )
    known, name = tasks(), data["name"]
    check_known(TaskError, "there is no such task", "task", name, known)
    try:
        return known[name].model_validate({k: v for k, v in data.items() if k != "name"})
    except ValidationError as error:
        raise _task_error(known[name], error) from error


def _task_error(task: type[Task], error: ValidationError) -> TaskError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    hint = ""
    if first["type"] == "extra_forbidden":
        hint = nearest(where, task.model_fields)
    return TaskError(
        message_of(first),
        field=f"task {task.name!r}" + (f", {where}" if where else ""),
        value=None if first["type"] == "missing" else first.get("input"),
        remedy=f"{hint}Its parameters are: {', '.join(task.model_fields)}",
    )
