"""One cell, run: the same code in this process, in worker processes and on a Ray cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from lightkv.core.errors import LightKVError
from lightkv.lab.grids.measuring import measure
from lightkv.lab.outcomes import Cell, Measured, Outcome, writable
from lightkv.lab.subject import Subject, Usage, usage
from lightkv.lab.tasks import Sample, Task, build_task


@dataclass(frozen=True)
class Job:
    """A cell to run.

    Attributes:
        id: of the cell.
        spec: of the cell.
        reference: answers of the uncompressed model, for tasks that need them.
        workers: processes of the run.
    """

    id: str
    spec: dict[str, Any]
    reference: Mapping[str, str] | None = None
    workers: int = 1


@dataclass(frozen=True)
class Result:
    """What came of a job.

    Attributes:
        id: of the cell.
        outcomes: of its samples, ordered by sample; empty after an error.
        usage: of its prefills; None after an error.
        measured: what single prefills took; None after an error.
        seconds: wall time.
        versions: of what ran it.
        error: why it failed, or None.
    """

    id: str
    outcomes: tuple[Outcome, ...] = ()
    usage: Usage | None = None
    measured: Measured | None = None
    seconds: float = 0.0
    versions: dict[str, str] | None = None
    error: str | None = None


Loaded = tuple[tuple[str, str], Subject]
"""A subject under its model and dtype."""


class Worker:
    """Runs jobs one after the other; keeps the last model and the last task's samples."""

    def __init__(self, threads: int | None = None, loaded: Loaded | None = None) -> None:
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        self._loaded = loaded
        self._task_key = ""
        self._task: tuple[Task, list[Sample]] | None = None

    def subject(self, model: str, dtype: str) -> Subject:
        """The model, loaded once."""
        key = (model, dtype)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # the old one goes before the new one comes
            self._loaded = key, Subject.load(model, dtype=dtype)
        return self._loaded[1]

    def run(self, job: Job) -> Result:
        """Run a cell. An error becomes part of the result: it must not stop the other cells."""
        start = time.perf_counter()
        try:
            outcomes, used, measured = self._run(job)
        except LightKVError as error:
            return Result(job.id, error=writable(str(error)), versions=versions())
        except Exception as error:  # noqa: BLE001 - out of memory, a model's own bug
            text = writable(" ".join(str(error).split())[:500])
            return Result(job.id, error=f"{type(error).__name__}: {text}", versions=versions())
        seconds = time.perf_counter() - start
        return Result(job.id, tuple(outcomes), used, measured, seconds, versions())

    def _run(self, job: Job) -> tuple[list[Outcome], Usage, Measured]:
        import torch

        spec = job.spec
        subject = self.subject(spec["model"], spec["dtype"])
        task, samples = self._samples(spec["task"])
        source = spec["pipeline"] or None
        # Before the answers, in a session of its own: these are as if nothing had been measured.
        measured = measure(subject, subject.prepare(source), samples, job.workers)
        torch.manual_seed(spec["seed"])
        with subject.answering(subject.prepare(source)) as session:
            found = task.evaluate(subject, samples, job.reference)
            # A byte-level tokenizer can say what no file can be written with.
            outcomes = [replace(one, answer=writable(one.answer)) for one in found]
            return sorted(outcomes, key=attrgetter("sample")), usage(session), measured

    def _samples(self, spec: dict[str, Any]) -> tuple[Task, list[Sample]]:
        key = json.dumps(spec, sort_keys=True)
        if self._task is None or key != self._task_key:
            if self._loaded is not None:
                self._loaded[1].encodings.clear()
            task = build_task(spec)
            self._task, self._task_key = (task, task.samples()), key
        return self._task


def versions() -> dict[str, str]:
    """Package → version, and how many threads."""
    import platform

    import numpy
    import torch
    import transformers

    import lightkv

    return {
        "lightkv": lightkv.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
    }


def finished(cell: Cell, result: Result) -> Cell:
    """The cell with the figures of its result."""
    assert result.usage is not None
    return replace(
        cell,
        status="done",
        versions=result.versions or {},
        seconds=result.seconds,
        retention=result.usage.retention,
        flops=result.usage.flops,
        kv_bytes=result.usage.kv_bytes,
        tokens=result.usage.tokens,
        measured=result.measured,
    )
