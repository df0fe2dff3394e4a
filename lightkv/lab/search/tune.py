"""The smallest retention that loses less than a user allows, on the user's own data."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lightkv.core import yamls
from lightkv.core.errors import ConfigError, LightKVWarning, check_known, check_least
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe, resolve_spec
from lightkv.core.strict import read_number
from lightkv.lab.errors import TaskError
from lightkv.lab.grids.cells import seeded
from lightkv.lab.search.candidates import candidates
from lightkv.lab.search.evaluator import Evaluator, Report
from lightkv.lab.search.loss_bounds import growing
from lightkv.lab.search.result import Tuned, check_out, write
from lightkv.lab.search.tuner import Tuner, check_samples, error_of_one
from lightkv.lab.stats import scipy_stats
from lightkv.lab.subject import Subject
from lightkv.lab.tasks import Task, build_task

RANGE = "0.2:0.95"
STEP = 0.05
MOST_POINTS = 1000
"""Retentions of a range."""
DIGITS = ("scenes", "pictures", "pairs", "clips")
"""Tasks of the bundled models, whose number of samples has the same name."""
TASKS = ("files", "agreement", "perplexity", *DIGITS)
_DIGITS = re.compile(rf"({'|'.join(DIGITS)})(?::(\d+))?")


def tune(
    model: str | Subject = "demo",
    data: Any = "scenes:1000",
    *,
    task: str | None = None,
    measure: str | None = None,
    question: str | None = None,
    strategy: str | Sequence[str] = "lightkv",
    schedules: Sequence[Mapping[str, Any] | str] | None = None,
    max_drop: float | str = 0.01,
    confidence: float | str = 0.95,
    range: str | tuple[float, float] = RANGE,
    step: float = STEP,
    budget: int | None = None,
    samples: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    dtype: str = "auto",
    device: str | None = None,
    progress: Report | None = None,
) -> Tuned:
    """Find the smallest retention, and the schedule for it, whose loss is shown to be below `max_drop`.

    Bisection over the retentions of the range, and at each of them successive halving over schedules,
    with samples that grow until they decide. A retention passes if with one of its schedules a
    one-sided bound of the paired difference to the uncompressed model, by bootstrap over pictures, is
    above −`max_drop` on all samples. That more retention loses no more is assumed where the search
    looks for the smallest, not in what it says of the one found; one retention below the answer's
    neighbour tests it.

    Args:
        model: `demo`, a checkpoint directory, a hub id, or a subject that is loaded.
        data: `scenes:N` (or `pictures:N`, `pairs:N`, `clips:N`), a folder, a JSONL file, or a task.
        task: `files`, `agreement`, `perplexity`; None: by whether the data have answers.
        measure, question: of files.
        strategy: presets or pipeline files, with commas between them or as a list: the one that
            passes at the smallest retention, of several the one that loses less there.
        schedules: to try besides a strategy's own: changes of its recipe, such as `{"ratio": 0.4}` or
            `"ratio: 0.4"`. None: gentler stages, or other depths (`lightkv.lab.search.candidates`).
            `["own"]`: no others.
        max_drop: of the mean score: `"1%"` or 0.01. Of the mean log-probability for `perplexity`.
        confidence: that the retention found loses less, whatever path the search takes.
        range, step: retentions to choose from.
        budget: retentions to try at most for each strategy; the bisection's own need if None.
        samples: to use at most, in whole pictures.
        seed: of the order of pictures, the bootstrap, bundled scenes and components that draw.
        out: a pipeline file to write, with the evidence as comments.
        dtype, device: to load a model in.
        progress: called before each evaluation.

    Raises:
        ConfigError: numbers that make no sense, data that cannot be used, a strategy whose schedule
            is explicit; scipy is not installed.
        NotShownError: no retention of the range passes, or none could with so few pictures (before a
            model is loaded); nothing is written.
        LightKVError: the model cannot be loaded, or a strategy cannot work on it.
    """
    drop = share(max_drop, "max_drop", 0.0, 1.0, "1% or 0.01")
    sure = share(confidence, "confidence", 0.5, 0.9999, "95% or 0.95")
    points = retentions(range, step)
    check_least("budget", budget)
    check_least("samples", samples)
    if not 0 <= seed < 2**63:
        raise ConfigError("must be at least 0 and below 2^63", field="seed", value=seed)
    scipy_stats()
    path = None if out is None else check_out(out)
    specs = _specs(strategy, seed)
    tried = [candidates(name, spec, schedules) for name, spec in specs.items()]
    chosen = task_of(data, task, measure=measure, question=question, seed=seed)
    rungs = growing(chosen.samples(), seed, samples)
    if not rungs or not rungs[0]:
        raise ConfigError("the data hold no samples", field="data", value=str(data))
    alpha = error_of_one(sure, len(points), tried)
    everything = [sample for rung in rungs for sample in rung]
    check_samples(everything, alpha, drop, accuracy=chosen.accuracy, seed=seed)
    subject = (
        model if isinstance(model, Subject) else Subject.load(model, dtype=dtype, device=device)
    )
    evaluator = Evaluator(subject, chosen, rungs, seed, progress)
    tuner = Tuner(evaluator, drop, sure, points, step, budget, tried)
    tuner.remarks += _about_truth(chosen, fell_back=task is None and isinstance(data, str | Path))
    tuner.check(asked=schedules is not None)
    tuned = tuner.best()
    if path is not None:
        write(tuned, path)
    return tuned


def _about_truth(task: Task, fell_back: bool) -> list[str]:
    """What a result is worth whose truth is the uncompressed model; warned of before the work begins."""
    if task.name != "agreement":
        return []
    why = "the data have no answers, so tune fell back to agreement: " if fell_back else ""
    told = (
        f"{why}the uncompressed model's own answers count as the truth; what is shown is that answers "
        "stay the same, not that they are right"
    )
    if fell_back:
        warnings.warn(LightKVWarning(told), stacklevel=3)
    return [told]


def _specs(strategy: str | Sequence[str], seed: int) -> dict[str, PipelineSpec]:
    """Name → pipeline with a schedule that a retention is solved for, components seeded."""
    names = strategy.split(",") if isinstance(strategy, str) else list(strategy)
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise ConfigError("there is no strategy", field="strategy", remedy="such as lightkv")
    found = {name: resolve_spec(name) for name in dict.fromkeys(names)}
    for name, spec in found.items():
        if not isinstance(spec.schedule, Recipe):
            raise ConfigError(
                "its schedule has explicit stages, which already fix the retention",
                field="strategy",
                value=name,
                remedy="give its schedule as a recipe (retention, windows, ratio)",
            )
    return {name: PipelineSpec.parse(seeded(spec.to_data(), seed)) for name, spec in found.items()}


# -- what a user says in short ---------------------------------------------------------------------


def share(value: float | str, field: str, low: float, high: float, example: str) -> float:
    """`0.01` or `"1%"` as a number strictly between `low` and `high`.

    Raises:
        ConfigError: not a number, or outside.
    """
    try:
        number = read_number(str(value))
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
        data: `scenes:N` (or another of `DIGITS`), a folder, a JSONL file, or a task (also as plain data,
            or as YAML in braces).
        task: one of `TASKS`. None: with answers in all lines their own, without any the agreement
            with the uncompressed model.
        measure, question: of files.
        seed: of the scenes.

    Raises:
        TaskError: no such task or file, broken lines, pictures missing, answers in some lines only.
    """
    if task is not None:
        check_known(TaskError, "there is no such task", "task", task, TASKS)
    if isinstance(data, str) and data.lstrip().startswith("{"):
        data = _read(data)
    if isinstance(data, Task | Mapping):
        return _wrapped(build_task(data), task, measure)
    text = str(data)
    digits = _DIGITS.fullmatch(text)
    given = {"measure": measure, "question": question}
    if digits and task != "files" and not Path(text).exists():
        name = digits[1]
        _not_for_digits(given if task in (None, name) else {"question": question})
        number = {} if digits[2] is None else {name: int(digits[2])}
        return _wrapped(build_task({"name": name, "seed": seed, **number}), task, measure)
    if task in DIGITS:
        raise TaskError(
            f"these are no {task}", field="data", value=text, remedy=f"give {task}:N, or no --task"
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
    if task is None or task == inner.name or task in ("files", *DIGITS):
        return inner
    options = {} if measure is None or task != "agreement" else {"measure": measure}
    return build_task({"name": task, "of": inner.spec(), **options})


def _read(text: str) -> Any:
    """A task written as YAML in braces."""
    try:
        return yamls.load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise TaskError(
            f"the task is no YAML ({' '.join(str(error).split())[:200]})",
            field="data",
            value=text,
            remedy="such as '{name: clips, clips: 500, steps: 8, rows: 8, columns: 8}'",
        ) from error


def _not_for_digits(given: Mapping[str, str | None]) -> None:
    for key, value in given.items():
        if value is not None:
            raise TaskError(
                "the digit scenes have questions and a measure of their own",
                field=key,
                value=value,
                remedy="leave it out",
            )
