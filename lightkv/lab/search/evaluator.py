"""Outcomes of a subject under many pipelines, on growing sets of samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lightkv.core.errors import ConfigError
from lightkv.core.pipeline.pipeline import PipelineSpec
from lightkv.core.run.session import Session
from lightkv.lab.grids.cells import probe_of
from lightkv.lab.outcomes import Outcome
from lightkv.lab.subject import Subject
from lightkv.lab.tasks import Sample, Task


@dataclass(frozen=True)
class Progress:
    """Where a tuning stands: about to try `strategy` at `retention` (None: the uncompressed model)
    on `samples` more samples, with `trials` verdicts so far."""

    strategy: str
    retention: float | None
    samples: int
    trials: int


Report = Callable[[Progress], None]


@dataclass(eq=False)
class Evaluator:
    """Outcomes of a subject, rung by rung; each sample is answered once for each pipeline.

    Attributes:
        task: as given.
        rungs: the samples that each rung adds.
        total: samples in all of them.
        answered: by compressed models so far.
    """

    subject: Subject
    task: Task
    rungs: Sequence[list[Sample]]
    seed: int = 0
    progress: Report | None = None

    def __post_init__(self) -> None:
        self.total = sum(map(len, self.rungs))
        self.answered = 0
        self.trials = 0
        self._probe = probe_of(self.rungs[0])
        self._sessions: dict[tuple[str, float | None], Session] = {}
        self._outcomes: dict[tuple[str, float | None, int], list[Outcome]] = {}

    def base(self, rung: int) -> list[Outcome]:
        """Outcomes of the uncompressed model on the samples up to a rung."""
        return self.outcomes("", None, None, rung)

    def outcomes(
        self, name: str, spec: PipelineSpec | None, retention: float | None, rung: int
    ) -> list[Outcome]:
        """Outcomes of a strategy at a retention on the samples up to a rung."""
        for number in range(rung + 1):
            if (name, retention, number) not in self._outcomes:
                reference = None
                if spec is not None and self.task.needs_reference:
                    reference = {o.sample: o.answer for o in self.base(number)}
                found = self._evaluate(name, spec, retention, self.rungs[number], reference)
                self._outcomes[name, retention, number] = found
        return [o for n in range(rung + 1) for o in self._outcomes[name, retention, n]]

    def pipeline(self, name: str, retention: float) -> PipelineSpec:
        """With explicit stages, as evaluated."""
        return self._sessions[name, retention].pipeline.spec

    def reachable(self, spec: PipelineSpec, retention: float) -> str | None:
        """Why no schedule of a strategy has a retention; None if one has."""
        try:
            self.subject.prepare(spec, retention)
        except ConfigError as error:
            return str(error)
        return None

    def _evaluate(
        self,
        name: str,
        spec: PipelineSpec | None,
        retention: float | None,
        samples: Sequence[Sample],
        reference: Mapping[str, str] | None,
    ) -> list[Outcome]:
        import torch

        if self.progress is not None:
            self.progress(Progress(name, retention, len(samples), self.trials))
        key = (name, retention)
        if key not in self._sessions:
            probe = () if spec is None else self._probe
            self._sessions[key] = self.subject.prepare(spec, retention, probe=probe)
        torch.manual_seed(self.seed)
        # Without the reports of the rungs before, which nobody reads here.
        again = self.subject.prepare(self._sessions[key].pipeline.spec)
        with self.subject.answering(again):
            found = list(self.task.evaluate(self.subject, samples, reference))
        self.answered += 0 if spec is None else len(found)
        return found
