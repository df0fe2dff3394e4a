"""One design on a model: solved, priced before it is asked, and asked until it is beaten or done."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightkv.core.pipeline.pipeline import PipelineSpec
from lightkv.lab.grids.cells import probe_of
from lightkv.lab.outcomes import Outcome, Sample, writable
from lightkv.lab.subject import Subject, Usage, usage
from lightkv.lab.tasks import Task

Beaten = Callable[[Sequence[Outcome], float], str]
"""(outcomes so far, FLOPs) → why a trial ends here; "" if it goes on."""


@dataclass(frozen=True)
class Answers:
    """What a design answered.

    Attributes:
        outcomes: ordered by sample; of some samples only where `beaten` says why.
        used: of its prefills.
        seconds: wall time.
        beaten: why it ended early; "" if it did not.
    """

    outcomes: tuple[Outcome, ...]
    used: Usage
    seconds: float
    beaten: str = ""


class Asker:
    """Asks one model about the samples of one part, rung by rung.

    A rung's samples share batches with none of another, and the generator is seeded before each design,
    so a design gives the same answers wherever in a search it is asked.
    """

    def __init__(
        self, subject: Subject, task: Task, rungs: Sequence[list[Sample]], seed: int
    ) -> None:
        self.subject = subject
        self._task = task
        self._rungs = rungs
        self._seed = seed
        self._probe = probe_of(rungs[0])
        self._prices: dict[str, Usage] = {}

    def solved(self, pipeline: dict[str, Any], retention: float) -> dict[str, Any]:
        """With explicit stages, whose achieved retention is as near to the wanted one as it can be.

        Raises:
            LightKVError: the pipeline cannot work on this model, or not at this retention.
        """
        spec = PipelineSpec.parse(pipeline)
        session = self.subject.prepare(spec, retention, probe=self._probe)
        return session.pipeline.spec.to_data()

    def price(self, pipeline: dict[str, Any]) -> Usage:
        """What a pipeline costs on the probe, before it answers anything; measured once."""
        key = json.dumps(pipeline, sort_keys=True)
        if key not in self._prices:
            session = self.subject.prepare(pipeline)
            self._prices[key] = self.subject.try_on(session, self._probe)
        return self._prices[key]

    def ask(
        self,
        pipeline: dict[str, Any],
        reference: Mapping[str, str] | None = None,
        beaten: Beaten | None = None,
    ) -> Answers:
        """Answers of a solved pipeline; of the uncompressed model for an empty one.

        Args:
            pipeline: as plain data with explicit stages.
            reference: answers of the uncompressed model, for tasks that need them.
            beaten: asked after every rung but the last.
        """
        import torch

        start = time.perf_counter()
        flops = self.price(pipeline).flops if pipeline and beaten else 1.0
        torch.manual_seed(self._seed)
        outcomes: list[Outcome] = []
        why = ""
        with self.subject.answering(self.subject.prepare(pipeline or None)) as session:
            for number, samples in enumerate(self._rungs, 1):
                found = self._task.evaluate(self.subject, samples, reference)
                # A byte-level tokenizer can say what no file can be written with.
                outcomes += [replace(one, answer=writable(one.answer)) for one in found]
                if beaten is not None and number < len(self._rungs):
                    why = beaten(outcomes, flops)
                if why:
                    break
            used = usage(session)
        ordered = tuple(sorted(outcomes, key=lambda outcome: outcome.sample))
        return Answers(ordered, used, time.perf_counter() - start, why)
