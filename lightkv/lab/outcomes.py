"""What the lab asks and keeps: samples, the outcome of each of them, and the cells that hold outcomes.

Plain data that tasks and the runner make, the store keeps and the report reads; nothing here imports
torch. Outcomes and cells check themselves, when they are made and when they are read: another type,
NaN or infinity is a `pydantic.ValidationError`.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator
from pydantic.dataclasses import dataclass

from lightkv.checkpoints.seen import Seen

Status = Literal["pending", "running", "interrupted", "done", "failed", "skipped"]
"""No file holds `interrupted`: a reader finds it, where the process that ran a cell has ended."""
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_LOOKED_UP = {"model": str, "task": dict | str, "pipeline": dict}
"""Types that runs and reports count on in a spec."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """A question about a picture, or about pictures and clips.

    Attributes:
        id: unique in its task.
        cluster: what samples share that are not independent: the picture.
        kind: of question, or what else the task tells outcomes apart by; "" if it knows no kinds.
        question: as the model is asked.
        answers: right ones, any of them; empty if nobody knows.
        image: the picture, a `Seen` with pictures and clips, or what opens one of them.
        tokens: vision tokens of what is seen, so that like prompts can share a batch; 0 if nobody knows.
    """

    id: str
    cluster: str
    kind: str
    question: str
    answers: tuple[str, ...]
    image: Any
    tokens: int = 0

    def seen(self) -> Seen:
        """What is asked about: PIL images in RGB, and clips."""
        given = self.image() if callable(self.image) else self.image
        return given if isinstance(given, Seen) else Seen([given])


@dataclass(frozen=True, config=_STRICT)
class Outcome:
    """One sample under one cell.

    Attributes:
        sample: identity of the sample in its task; equal identities in two cells are a pair.
        cluster: what samples share that are not independent (the picture); resampled as a whole.
        kind: of question; "" if the task knows no kinds.
        question: as asked.
        answer: what the model said.
        score: 0 to 1 for answers; a log-probability for perplexity.
        retention: achieved for this sample.
    """

    sample: str
    cluster: str
    kind: str
    question: str
    answer: str
    score: float
    retention: float = 1.0


@dataclass(frozen=True, config=_STRICT)
class Measured:
    """What the prefills of single prompts took under a cell, and where.

    Attributes:
        first_token: seconds until the model's first token is there, encoder included, the processor
            not: the median over prompts. `fastest`, `slowest`: of these.
        prompts: that were timed, the first of each of as many pictures.
        peak_bytes: of memory beyond weights and inputs while the longest of these prompts is prefilled:
            on a GPU as torch's allocator counts them, elsewhere those of all tensors alive at once.
        machine: GPU or CPU.
        threads: of torch.
        workers: processes of the run, which may have shared the machine.
    """

    first_token: float
    fastest: float
    slowest: float
    prompts: int
    peak_bytes: int
    machine: str
    threads: int
    workers: int = 1

    @property
    def where(self) -> str:
        """The machine, and how many threads and processes used it."""
        counts = ((self.threads, "thread", "threads"), (self.workers, "process", "processes"))
        parts = [f"{number} {one if number == 1 else many}" for number, one, many in counts]
        return ", ".join([self.machine, *parts])


@dataclass(frozen=True, config=_STRICT)
class Cell:
    """One point of a grid, with what came of it.

    Attributes:
        id: hash of `spec`; the same spec is the same cell in every run and every process.
        position: place in the grid's order.
        name: short text for tables, unique in a grid.
        factors: axis of the grid → label of its value, as "matcher" → "cosine"; what varies.
        spec: everything that decides the result: model, task, samples, seed and the pipeline with
            explicit stages (empty for the uncompressed model).
        status: of the cell.
        reason: why it was skipped, or the error that it failed with.
        versions: package → version of the run that made it.
        seconds: that it took.
        retention: achieved, mean over samples.
        flops, kv_bytes: of prefill and of its cache, relative to the uncompressed model.
        tokens: vision tokens in each layer's cache, mean over samples.
        measured: what its prefills took; None where nobody measured.
    """

    id: str
    position: int
    name: str
    factors: dict[str, str]
    spec: dict[str, Any]
    status: Status = "pending"
    reason: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    seconds: float | None = None
    retention: float | None = None
    flops: float | None = None
    kv_bytes: float | None = None
    tokens: Annotated[tuple[float, ...], Field(strict=False)] = ()
    measured: Measured | None = None

    @field_validator("spec")
    @classmethod
    def _can_be_looked_up(cls, spec: dict[str, Any]) -> dict[str, Any]:
        for key, kind in _LOOKED_UP.items():
            if not isinstance(spec.get(key), kind | None):
                raise ValueError(f"{key!r} has another type")
        return spec


def comparable(one: Cell, other: Cell) -> bool:
    """Whether two cells asked the same model the same questions about the same pictures.

    Identities of samples do not tell: scenes of another seed are numbered alike.
    """
    return all(one.spec.get(key) == other.spec.get(key) for key in ("model", "task", "data"))


def repeats_with_another_seed(one: Cell, other: Cell) -> bool:
    """Whether two cells asked the same model the same kinds of questions about other pictures: nothing
    but the seed that draws these differs. A search asks parts of its data only, so its cells do not."""
    tasks = [cell.spec.get("task") for cell in (one, other)]
    return (
        all(one.spec.get(key) == other.spec.get(key) for key in ("model", "data"))
        and not any("part" in cell.spec for cell in (one, other))
        and tasks[0] != tasks[1]
        and _without_seed(tasks[0]) == _without_seed(tasks[1])
    )


def _without_seed(task: Any) -> Any:
    """A task, and the task that it is made of, without what draws its samples."""
    if not isinstance(task, dict):
        return task
    return {key: _without_seed(value) for key, value in task.items() if key != "seed"}


def has_surrogates(text: str) -> bool:
    """Whether a text holds halves of surrogate pairs, which no file can be written with."""
    return writable(text) != text


def writable(text: str) -> str:
    """A text with halves of surrogate pairs replaced; all others stay as they are."""
    return text.encode("utf-8", "replace").decode("utf-8")
