"""The bundled digit scenes: pictures of coloured digits, up to six questions about each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from lightkv.core.errors import check_known
from lightkv.lab.errors import TaskError
from lightkv.lab.outcomes import Outcome, Sample
from lightkv.lab.tasks.base import Reference, Task, answered

if TYPE_CHECKING:
    from lightkv.lab.subject import Subject


class Scenes(Task):
    """Held-out digit scenes of the demo; asked as `lightkv demo` asks.

    Attributes:
        scenes: how many.
        seed: of the scenes.
        kinds: of questions to ask; all if empty.
    """

    name: ClassVar[str] = "scenes"
    scenes: int = Field(default=500, ge=1)
    seed: int = Field(default=0, ge=0)
    kinds: tuple[str, ...] = ()

    def samples(self) -> list[Sample]:
        from lightkv.demo.scenes import KINDS, held_out_scenes

        for kind in self.kinds:
            what = "there is no such kind of question"
            check_known(TaskError, what, "task 'scenes', kinds", kind, KINDS)
        found = []
        for number, (scene, questions) in enumerate(held_out_scenes(self.scenes, self.seed)):
            cluster = f"{number:06}"
            found += [
                Sample(f"{cluster}-{q.kind}", cluster, q.kind, q.text, (q.answer,), scene.image)
                for q in questions
                if not self.kinds or q.kind in self.kinds
            ]
        return found

    def batches(self, samples: Sequence[Sample]) -> Iterator[list[Sample]]:
        """One kind at a time, prompts of equal length together, as the demo does."""
        from lightkv.demo.scenes import KINDS

        for kind in KINDS:
            some = [sample for sample in samples if sample.kind == kind]
            some.sort(key=lambda sample: len(sample.question.split()))  # stable
            for start in range(0, len(some), self.batch_size):
                yield some[start : start + self.batch_size]

    def evaluate(
        self, subject: Subject, samples: Sequence[Sample], reference: Reference | None = None
    ) -> Iterator[Outcome]:
        from lightkv.demo.asking import LIST_ANSWER_TOKENS, SHORT_ANSWER_TOKENS
        from lightkv.demo.scenes import Question, score

        def judge(sample: Sample, answer: str) -> float:
            asked = Question(sample.kind, sample.question, sample.answers[0], None)  # type: ignore[arg-type]
            return score(asked, answer)

        for batch in self.batches(samples):
            is_list = any(sample.kind == "list" for sample in batch)
            limit = LIST_ANSWER_TOKENS if is_list else SHORT_ANSWER_TOKENS
            yield from answered(subject, batch, limit, judge)
