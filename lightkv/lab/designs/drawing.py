"""Which design is tried next: optuna's samplers, asked and told in memory.

Nothing of optuna is stored. A sampler with a seed says the same again if it is told the same again, so
a search that goes on tells it the trials of the results file and continues where it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lightkv.core.errors import ConfigError
from lightkv.core.pipeline.pipeline import PipelineSpec
from lightkv.lab.designs.schema import SearchStudy
from lightkv.lab.designs.space import (
    Choice,
    Open,
    Range,
    corners,
    first_of,
    fixed,
    rounded,
    text_of,
)
from lightkv.lab.errors import SearchError
from lightkv.lab.grids.cells import seeded
from lightkv.lab.grids.changes import changed

EXTRA = "search"
RETENTION = "retention"
STARTUP = 10
"""Trials of `tpe` that are drawn at random for each retention, before it has anything to go by."""
GENERATION = 20
"""Designs of a generation of `nsga2`."""


@dataclass(frozen=True)
class Design:
    """A point of the space.

    Attributes:
        retention: wanted.
        chosen: path of each open value that was met → what was chosen, as text.
        pipeline: as plain data, before it is solved for a model.
    """

    retention: float
    chosen: dict[str, str]
    pipeline: dict[str, Any]


def optuna_library() -> Any:
    """`optuna`, quiet; to be called before long work.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise ConfigError(
            "a search needs optuna, which is not installed",
            field="search",
            remedy=f"pip install 'lightkv[{EXTRA}]'",
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class Drawing:
    """A sampler over a study's space; each `draw` is followed by one `tell`.

    Two goals: the score, which is to be large, and the FLOPs, which are to be small.
    """

    def __init__(self, study: SearchStudy) -> None:
        self._optuna = optuna_library()
        self._study = study
        self._number = 0
        self._trial: Any = None
        with self._quiet():
            self._trials = self._optuna.create_study(
                directions=["maximize", "minimize"], sampler=self._sampler()
            )

    def draw(self) -> Design:
        """The next design. Retentions take turns, so that each has as many trials."""
        wanted = self._study.retention[self._number % len(self._study.retention)]
        chosen: dict[str, str] = {}
        with self._quiet():
            if len(self._study.retention) > 1:
                self._trials.enqueue_trial({RETENTION: wanted})
            self._trial = self._trials.ask()
            if len(self._study.retention) > 1:
                self._trial.suggest_categorical(RETENTION, self._study.retention)

            def pick(value: Open) -> Any:
                found = self._suggested(value)
                chosen[value.path] = text_of(found)
                return found

            drawn = fixed(self._study.space, pick)
        self._number += 1
        return Design(wanted, chosen, design(self._study, drawn))

    def tell(self, score: float | None, flops: float | None = None) -> None:
        """What came of the design; None where it could not be run."""
        failed = self._optuna.trial.TrialState.FAIL
        with self._quiet():
            if score is None or flops is None:
                self._trials.tell(self._trial, state=failed)
            else:
                self._trials.tell(self._trial, [score, flops])

    def _suggested(self, value: Open) -> Any:
        if isinstance(value, Choice):
            return self._trial.suggest_categorical(value.path, list(value.options))
        return _number(self._trial, value)

    def _sampler(self) -> Any:
        samplers, seed = self._optuna.samplers, self._study.seed
        if self._study.sampler == "random":
            return samplers.RandomSampler(seed=seed)
        if self._study.sampler == "nsga2":
            return samplers.NSGAIISampler(seed=seed, population_size=GENERATION)
        # Parameters of an option exist only with it: `group` models them together where they do.
        return samplers.TPESampler(
            seed=seed,
            multivariate=True,
            group=True,
            n_startup_trials=STARTUP * len(self._study.retention),
        )

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Options that optuna calls experimental are no one's mistake."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self._optuna.exceptions.ExperimentalWarning)
            yield


def _number(trial: Any, value: Range) -> float:
    if value.whole:
        step = 1 if value.step is None else int(value.step)
        return int(trial.suggest_int(value.path, value.low, value.last, step=step, log=value.log))
    found = trial.suggest_float(value.path, value.low, value.last, step=value.step, log=value.log)
    return min(max(rounded(found), value.low), value.high)


# -- designs --------------------------------------------------------------------------------------


def design(study: SearchStudy, drawn: Mapping[str, Any]) -> dict[str, Any]:
    """The pipeline that a choice makes of the study's base, as plain data with seeds.

    Raises:
        ConfigError: an unknown component or parameter, or a value that it does not take.
    """
    pipeline = changed(study.base, drawn)
    pipeline = {**pipeline, "name": study.name, "source": ""}
    return seeded(pipeline, study.seed)


def check_space(study: SearchStudy) -> None:
    """Build every option and both ends of every range once, each with the first of all others.

    Raises:
        SearchError: a component, parameter or value that there is not; it names the choice.
    """
    for corner in [{}, *corners(study.space)]:

        def pick(value: Open, corner: Mapping[str, Any] = corner) -> Any:
            return corner.get(value.path, first_of(value))

        try:
            PipelineSpec.parse(design(study, fixed(study.space, pick)))
        except ConfigError as error:
            chosen = ", ".join(f"{path} {text_of(value)}" for path, value in corner.items())
            raise SearchError(
                f"a design with {chosen or 'the first of all options'} cannot be built: "
                f"{str(error).rstrip('.')}",
                field="space",
                remedy="change the option, or what it stands beside",
            ) from error
