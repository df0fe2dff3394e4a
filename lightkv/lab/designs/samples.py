"""What a search asks while it goes on, and what it keeps for the end."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from lightkv.lab.designs.schema import SearchStudy
from lightkv.lab.errors import SearchError
from lightkv.lab.outcomes import Sample
from lightkv.lab.search.loss_bounds import FEWEST, growing
from lightkv.lab.tasks import Task, build_task

SEARCHED, HELD_OUT = "searched", "held-out"
"""Labels of the two parts."""


@dataclass(frozen=True)
class Part:
    """A part of the data.

    Attributes:
        label: `SEARCHED` or `HELD_OUT`.
        task: that its samples are of.
        samples: all of them.
    """

    label: str
    task: Task
    samples: Sequence[Sample]

    @property
    def clusters(self) -> int:
        """Pictures."""
        return len({sample.cluster for sample in self.samples})


def searched(study: SearchStudy) -> Part:
    """What designs are compared on.

    Raises:
        TaskError: data that cannot be used.
        SearchError: too few pictures.
    """
    task = build_task(study.task)
    samples = task.samples()
    if isinstance(study.held_out, float):
        samples = _split(samples, study.held_out, study.seed)[0]
    part = Part(SEARCHED, task, samples)
    _check_size(part)
    return part


def held_out(study: SearchStudy) -> Part:
    """What the end of the search is tested on.

    Raises:
        TaskError: data that cannot be used.
        SearchError: the study holds nothing out, or too few pictures.
    """
    if study.held_out is None:
        raise SearchError(
            "the study holds no data out, so there is nothing to test on",
            field="held_out",
            remedy="begin a search with held_out: a task with other pictures, or a share of them",
        )
    if isinstance(study.held_out, float):
        task = build_task(study.task)
        samples = _split(task.samples(), study.held_out, study.seed)[1]
    else:
        task = build_task(study.held_out)
        samples = task.samples()
    part = Part(HELD_OUT, task, samples)
    _check_size(part)
    return part


def check_apart(search: Part, test: Part) -> None:
    """Refuse held-out data with pictures that the search sees: it would be no test.

    Pictures are compared by their pixels, all of them: scenes of one seed are the same scenes, however
    many are asked for.

    Raises:
        SearchError: a picture is in both parts.
    """
    seen = {sample.seen().digest() for sample in _one_for_each(search.samples)}
    both = [sample for sample in _one_for_each(test.samples) if sample.seen().digest() in seen]
    if both:
        raise SearchError(
            f"{len(both)} of the held-out pictures are pictures of the search, the first of sample "
            f"{both[0].id!r}",
            field="held_out",
            remedy="give scenes of another seed, other files, or a share such as 0.5",
        )


def rungs_of(part: Part, seed: int) -> list[list[Sample]]:
    """What each rung of a trial adds, whole pictures in a random order."""
    return growing(part.samples, seed)


def _split(samples: Sequence[Sample], share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Samples that are searched and held out, whole pictures, in the task's order."""
    clusters = list(dict.fromkeys(sample.cluster for sample in samples))
    order = list(clusters)
    random.Random(f"held out {seed}").shuffle(order)
    kept = set(order[: round(share * len(order))])
    return (
        [sample for sample in samples if sample.cluster not in kept],
        [sample for sample in samples if sample.cluster in kept],
    )


def _check_size(part: Part) -> None:
    if part.clusters < FEWEST:
        raise SearchError(
            f"the {part.label} part has {part.clusters} pictures, of which nothing can be told",
            field="task" if part.label == SEARCHED else "held_out",
            remedy=f"give at least {FEWEST}, better some hundreds",
        )


def _one_for_each(samples: Sequence[Sample]) -> list[Sample]:
    """One sample of each picture."""
    return list({sample.cluster: sample for sample in reversed(samples)}.values())
