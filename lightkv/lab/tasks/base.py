"""What a task is: samples, and outcomes of a subject on them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, ValidationError

from lightkv.core.errors import nearest
from lightkv.core.strict import Plain
from lightkv.lab.errors import TaskError
from lightkv.lab.outcomes import Outcome

if TYPE_CHECKING:
    from lightkv.lab.subject import Subject

Reference = Mapping[str, str]
"""Sample → answer of the uncompressed model."""


@dataclass(frozen=True)
class Sample:
    """A question about one picture.

    Attributes:
        id: unique in its task.
        cluster: what samples share that are not independent: the picture.
        kind: of question; "" if the task knows no kinds.
        question: as the model is asked.
        answers: right ones, any of them; empty if nobody knows.
        image: the picture, or what opens it.
    """

    id: str
    cluster: str
    kind: str
    question: str
    answers: tuple[str, ...]
    image: Any

    def picture(self) -> Any:
        """The picture, a PIL image in RGB."""
        return self.image() if isinstance(self.image, Callable) else self.image  # type: ignore[arg-type]


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
        """Samples `batch_size` at a time, questions of similar length together."""
        order = sorted(samples, key=lambda sample: (sample.kind, len(sample.question.split())))
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


def tasks() -> dict[str, type[Task]]:
    """Name → task."""
    from lightkv.lab.tasks.agreement import Agreement
    from lightkv.lab.tasks.files import Files
    from lightkv.lab.tasks.perplexity import Perplexity
    from lightkv.lab.tasks.scenes import Scenes

    return {task.name: task for task in (Scenes, Files, Agreement, Perplexity)}


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
    if name not in known:
        raise TaskError(
            "there is no such task",
            field="task",
            value=name,
            remedy=f"{nearest(name, known)}There are: {', '.join(known)}",
        )
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
        str(first["msg"]).removeprefix("Value error, "),
        field=f"task {task.name!r}" + (f", {where}" if where else ""),
        value=None if first["type"] == "missing" else first.get("input"),
        remedy=f"{hint}Its parameters are: {', '.join(task.model_fields)}",
    )
