"""What the tasks about handwritten digits share: scenes, pictures, pairs and clips of the demo."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from lightkv.core.errors import check_known
from lightkv.demo.digits import Split
from lightkv.demo.scenes import Question, score
from lightkv.lab.errors import TaskError
from lightkv.lab.outcomes import Outcome, Sample
from lightkv.lab.tasks.base import Reference, Task, answered

if TYPE_CHECKING:
    from lightkv.lab.subject import Subject


@dataclass(frozen=True)
class Asked:
    """One scene with its questions.

    Attributes:
        seen: as `Sample.image`.
        tokens: vision tokens of what is seen.
        questions: each under the kind that its outcome is told by.
    """

    seen: Any
    tokens: int
    questions: Sequence[tuple[str, Question]]


class Digits(Task):
    """Generated scenes of handwritten digits; all questions about one are a cluster.

    Scene i depends on seed, split and i alone, so a task with fewer scenes has the first ones.

    Class attributes:
        all_kinds: of questions, in the order in which they are asked.

    Attributes:
        seed: of the scenes.
        kinds: of questions to ask; all if empty.
        split: `test`: of scans that training never saw. `train`: of those that it saw, to choose
            settings on that are then tested on the others.
    """

    all_kinds: ClassVar[tuple[str, ...]]
    seed: int = Field(default=0, ge=0)
    kinds: tuple[str, ...] = ()
    split: Split = "test"

    @property
    @abstractmethod
    def number(self) -> int:
        """How many scenes."""

    @abstractmethod
    def numbered(self, index: int) -> Asked:
        """Scene number `index`."""

    def spec(self) -> dict[str, Any]:
        """As of `Task`, without `split` where it is `test`: so cells from before there were splits keep
        their identity."""
        found = super().spec()
        if self.split == "test":
            del found["split"]
        return found

    def samples(self) -> list[Sample]:
        for kind in self.kinds:
            what = "there is no such kind of question"
            check_known(TaskError, what, f"task {self.name!r}, kinds", kind, self.all_kinds)
        found = []
        for number in range(self.number):
            cluster, one = f"{number:06}", self.numbered(number)
            found += [
                Sample(
                    f"{cluster}-{q.kind}", cluster, kind, q.text, (q.answer,), one.seen, one.tokens
                )
                for kind, q in one.questions
                if not self.kinds or q.kind in self.kinds
            ]
        return found

    def batches(self, samples: Sequence[Sample]) -> Iterator[list[Sample]]:
        """One kind at a time, prompts of equal length together, as the demo does."""
        place = {kind: number for number, kind in enumerate(self.all_kinds)}
        kinds = {sample.kind for sample in samples}
        for kind in sorted(kinds, key=lambda kind: (place.get(kind, len(place)), kind)):
            some = [sample for sample in samples if sample.kind == kind]
            some.sort(key=lambda sample: (sample.tokens, len(sample.question.split())))  # stable
            for start in range(0, len(some), self.batch_size):
                yield some[start : start + self.batch_size]

    def evaluate(
        self, subject: Subject, samples: Sequence[Sample], reference: Reference | None = None
    ) -> Iterator[Outcome]:
        from lightkv.demo.asking import answer_tokens

        def judge(sample: Sample, answer: str) -> float:
            return score(Question(sample.kind, sample.question, sample.answers[0], None), answer)

        for batch in self.batches(samples):
            yield from answered(subject, batch, answer_tokens(s.kind for s in batch), judge)


def by_kind(questions: Sequence[Question]) -> list[tuple[str, Question]]:
    """Questions under their own kinds."""
    return [(question.kind, question) for question in questions]
