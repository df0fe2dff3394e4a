"""The smallest retention that loses less than a user allows, on the user's own data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightkv.core.errors import ConfigError
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe, resolve_spec
from lightkv.lab.grids.cells import seeded
from lightkv.lab.grids.changes import spec_data
from lightkv.lab.search.arguments import retentions, share, task_of
from lightkv.lab.search.candidates import Candidate, candidates
from lightkv.lab.search.evaluator import Evaluator, Report
from lightkv.lab.search.loss_bounds import growing
from lightkv.lab.search.result import Tuned, check_out, write
from lightkv.lab.search.tuner import Tuner
from lightkv.lab.subject import Subject

RANGE = "0.2:0.95"
STEP = 0.05


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
        data: `scenes:N`, a folder, a JSONL file, or a task.
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
            is explicit.
        NotShownError: no retention of the range passes; nothing is written.
        LightKVError: the model cannot be loaded, or a strategy cannot work on it.
    """
    drop = share(max_drop, "max_drop", 0.0, 1.0, "1% or 0.01")
    sure = share(confidence, "confidence", 0.5, 0.9999, "95% or 0.95")
    points = retentions(range, step)
    for name, number in (("budget", budget), ("samples", samples)):
        if number is not None and number < 1:
            raise ConfigError("must be at least 1", field=name, value=number)
    if not 0 <= seed < 2**63:
        raise ConfigError("must be at least 0 and below 2^63", field="seed", value=seed)
    path = None if out is None else check_out(out)
    specs = _specs(strategy)
    tried = [_candidates(name, spec, schedules, seed) for name, spec in specs.items()]
    chosen = task_of(data, task, measure=measure, question=question, seed=seed)
    rungs = growing(chosen.samples(), seed, samples)
    if not rungs or not rungs[0]:
        raise ConfigError("the data hold no samples", field="data", value=str(data))
    subject = (
        model if isinstance(model, Subject) else Subject.load(model, dtype=dtype, device=device)
    )
    evaluator = Evaluator(subject, chosen, rungs, seed, progress)
    tuner = Tuner(evaluator, drop, sure, points, step, budget, tried)
    tuner.check(asked=schedules is not None)
    tuned = tuner.best()
    if path is not None:
        write(tuned, path)
    return tuned


def _specs(strategy: str | Sequence[str]) -> dict[str, PipelineSpec]:
    """Name → pipeline with a schedule that a retention is solved for."""
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
    return found


def _candidates(
    name: str, spec: PipelineSpec, schedules: Sequence[Mapping[str, Any] | str] | None, seed: int
) -> list[Candidate]:
    return candidates(name, PipelineSpec.parse(seeded(spec_data(spec), seed)), schedules)
