"""What a user says to `tune` in short: shares, a range of retentions, data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightkv.core.errors import ConfigError, nearest
from lightkv.lab.errors import TaskError
from lightkv.lab.tasks import Task, build_task

SCENES = re.compile(r"scenes(?::(\d+))?")
TASKS = ("files", "agreement", "perplexity", "scenes")
MOST_POINTS = 1000


def share(value: float | str, field: str, low: float, high: float, example: str) -> float:
    """`0.01` or `"1%"` as a number strictly between `low` and `high`.

    Raises:
        ConfigError: not a number, or outside.
    """
    text = str(value).strip()
    try:
        number = float(text[:-1]) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        number = float("nan")
    if not low < number < high:
        raise ConfigError(
            f"must be between {low:g} and {high:g}, or percent",
            field=field,
            value=value,
            remedy=f"such as {example}",
        )
    return number


def retentions(ends: str | tuple[float, float], step: float) -> list[float]:
    """`"0.2:0.95"` in steps, both ends included.

    Raises:
        ConfigError: not two retentions in ascending order, or a step that cannot be.
    """
    try:
        first, last = (float(end) for end in (ends.split(":") if isinstance(ends, str) else ends))
    except (ValueError, TypeError):
        first = last = float("nan")
    if not 0.0 < first <= last <= 1.0:
        raise ConfigError(
            "must be two retentions above 0 and at most 1, the smaller first",
            field="range",
            value=ends,
            remedy="such as 0.2:0.95",
        )
    if not step > 0.0 or (last - first) / step > MOST_POINTS:
        raise ConfigError(
            f"must be above 0 and leave at most {MOST_POINTS} retentions",
            field="step",
            value=step,
            remedy="such as 0.05",
        )
    number = int((last - first) / step + 1e-9)
    found = [round(first + k * step, 6) for k in range(number + 1)]
    return found if last - found[-1] < 1e-6 else [*found, last]


def task_of(
    data: Any,
    task: str | None = None,
    *,
    measure: str | None = None,
    question: str | None = None,
    seed: int = 0,
) -> Task:
    """The task that data stand for.

    Args:
        data: `scenes:N`, a folder, a JSONL file, or a task (also as plain data).
        task: one of `TASKS`. None: with answers in all lines their own, without any the agreement
            with the uncompressed model.
        measure, question: of files.
        seed: of the scenes.

    Raises:
        TaskError: no such task or file, broken lines, pictures missing, answers in some lines only.
    """
    if task is not None and task not in TASKS:
        raise TaskError(
            "there is no such task",
            field="task",
            value=task,
            remedy=f"{nearest(task, TASKS)}There are: {', '.join(TASKS)}",
        )
    if isinstance(data, Task | Mapping):
        return _wrapped(build_task(data), task, measure)
    text = str(data)
    scenes = SCENES.fullmatch(text)
    given = {"measure": measure, "question": question}
    if scenes and task != "files" and not Path(text).exists():
        _not_for_scenes(given if task in (None, "scenes") else {"question": question})
        number = {} if scenes[1] is None else {"scenes": int(scenes[1])}
        return _wrapped(build_task({"name": "scenes", "seed": seed, **number}), task, measure)
    if task == "scenes":
        raise TaskError(
            "these are no scenes", field="data", value=text, remedy="give scenes:N, or no --task"
        )
    options = {key: value for key, value in given.items() if value is not None}
    files = build_task({"name": "files", "path": text, **options})
    return _wrapped(files, task or _fitting(files, text), measure)


def _fitting(files: Any, path: str) -> str:
    """`files` where all samples have answers, `agreement` where none has."""
    found = files.read()
    labelled = sum(bool(sample.answers) for sample in found)
    if 0 < labelled < len(found):
        raise TaskError(
            f"{labelled} of {len(found)} samples have answers",
            field="data",
            value=path,
            remedy="give all of them answers, or --task agreement, which needs none",
        )
    return "files" if labelled else "agreement"


def _wrapped(inner: Task, task: str | None, measure: str | None) -> Task:
    if task is None or task == inner.name or task in ("files", "scenes"):
        return inner
    options = {} if measure is None or task != "agreement" else {"measure": measure}
    return build_task({"name": task, "of": inner.spec(), **options})


def _not_for_scenes(given: Mapping[str, str | None]) -> None:
    for key, value in given.items():
        if value is not None:
            raise TaskError(
                "the digit scenes have questions and a measure of their own",
                field=key,
                value=value,
                remedy="leave it out",
            )
