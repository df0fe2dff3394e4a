"""What a tuning found, and the pipeline file that says why."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightkv.core.errors import ConfigError, file_errors
from lightkv.core.pipeline.pipeline import PipelineSpec
from lightkv.lab.search.candidates import Named
from lightkv.lab.search.loss_bounds import Margin
from lightkv.lab.search.smallest import Verdict
from lightkv.lab.stats import Difference

HEAD = "# Written by lightkv tune."


@dataclass(frozen=True)
class Trial(Named):
    """One retention that was tried.

    Attributes:
        strategy, retention: as wanted.
        schedule: what was changed in the strategy's recipe; "" if nothing.
        achieved: mean over the samples.
        margin: the difference to the uncompressed model on the samples that it was decided on; its
            bounds are at the confidence of a decision only if these are all samples.
        verdict: of them; undecided on all samples does not pass.
        finished: whether these are all samples.
    """

    strategy: str
    schedule: str
    retention: float
    achieved: float
    margin: Margin
    verdict: Verdict
    finished: bool


@dataclass(frozen=True)
class Tuned(Named):
    """The smallest retention whose loss was shown to be below the threshold, and the evidence.

    Attributes:
        pipeline: with explicit stages for this model.
        strategy, schedule, retention: that it was made of, as in `Trial`.
        achieved: retention, mean over all samples.
        max_drop, confidence: as asked.
        decision_confidence: of each single bound, so that all decisions together have `confidence`.
        margin: one-sided bounds at `decision_confidence`, on all samples.
        difference: to the uncompressed model on all samples, with the two-sided 95 % interval.
        trials: schedules and retentions tried, in order.
        evaluations: how many retentions.
        answered: answers that they took, those of the uncompressed model left out.
        sweep: answers that the same strategies and schedules at every retention of the range would
            have taken.
        range, step: of the retentions.
        model, task, seed, versions: what they were tried with.
        accuracy: whether scores are shares of right answers.
        remarks: what to know before trusting it.
    """

    pipeline: PipelineSpec
    strategy: str
    schedule: str
    retention: float
    achieved: float
    max_drop: float
    confidence: float
    decision_confidence: float
    margin: Margin
    difference: Difference
    trials: tuple[Trial, ...]
    evaluations: int
    answered: int
    sweep: int
    range: tuple[float, float]
    step: float
    model: str
    task: dict[str, Any]
    seed: int
    versions: dict[str, str]
    accuracy: bool
    remarks: tuple[str, ...] = ()

    def points(self, value: float) -> str:
        """A difference of scores as text: in percent points where scores are shares."""
        return f"{100.0 * value:+.2f}" if self.accuracy else f"{value:+.4f}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        found = asdict(self)
        found["pipeline"] = self.pipeline.model_dump(mode="json", exclude_none=True)
        return found

    def to_yaml(self) -> str:
        """The pipeline, below the evidence as comments; `PipelineSpec.from_yaml` reads it."""
        # A line break in a name must not end the comment.
        lines = (f"# {' '.join(line.split())}" if line else "#" for line in self._evidence())
        return "\n".join([HEAD, "#", *lines, ""]) + self.pipeline.to_yaml()

    def _evidence(self) -> Iterator[str]:
        drop = self.points(-self.max_drop)
        unit = (
            "percent points of the mean score" if self.accuracy else "of the mean log-probability"
        )
        scale, digits = (100.0, 2) if self.accuracy else (1.0, 4)
        gap = self.difference
        yield f"model: {self.model}"
        yield f"task: {json.dumps(self.task, ensure_ascii=False)}"
        yield f"samples: {gap.n}, of {self.margin.clusters} pictures; seed: {self.seed}"
        yield f"asked: a difference above {drop} {unit}, {self.confidence:.4g} confidence"
        yield "a tuned pipeline: its stages were found on these data and are not those of the paper"
        yield f"strategy: {self.strategy}; schedule: {self.schedule or 'its own'}"
        yield f"retention: {self.retention:g}, achieved {self.achieved:.4f}"
        means = (f"{scale * mean:.{digits}f}" for mean in (gap.mean_base, gap.mean_other))
        yield "mean score: {} uncompressed, {} compressed".format(*means)
        yield (
            f"difference: {self.points(gap.difference)}, 95 % interval "
            f"[{self.points(gap.low)}, {self.points(gap.high)}], {gap.wins} better, {gap.losses} worse"
        )
        yield (
            f"shown: above {self.points(self.margin.low)} (one-sided bound at "
            f"{self.decision_confidence:.4f}: the confidence is shared out over all decisions)"
        )
        yield (
            f"effort: {self.evaluations} retentions, {self.answered} answers; a sweep of "
            f"{self.range[0]:g} to {self.range[1]:g} in steps of {self.step:g}: {self.sweep} answers"
        )
        yield "tried (strategy, retention, achieved, samples, difference, bounds, verdict; bounds on"
        yield "part of the samples only steer, and are closer than those on all):"
        for trial in self.trials:
            seen = trial.margin
            yield (
                f"- {trial.name} {trial.retention:g} {trial.achieved:.4f} {seen.samples} "
                f"{self.points(seen.difference)} [{self.points(seen.low)}, "
                f"{self.points(seen.high)}] {trial.verdict}"
            )
        for remark in self.remarks:
            yield f"remark: {remark}"
        yield f"versions: {', '.join(f'{key} {value}' for key, value in self.versions.items())}"
        yield ""


def check_out(out: str | Path) -> Path:
    """Where to write, before a long run.

    Raises:
        ConfigError: no such folder, one that nothing can be written into, a folder itself, or a
            file that no tuning has written.
    """
    path = Path(out).expanduser()
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ConfigError(
            "not a file in a folder that exists", field="out", value=str(out), remedy="name one"
        )
    if path.exists():
        try:
            ours = path.read_bytes().startswith(HEAD.encode())
        except OSError:
            ours = False
        if not ours:
            raise ConfigError(
                "there is a file that tune has not written, and it is not overwritten",
                field="out",
                value=str(out),
                remedy="name another file, or remove this one",
            )
    part = _part(path)
    with _writing(path):
        part.touch()
        part.unlink()
    return path


def write(tuned: Tuned, path: Path) -> None:
    """The file, wholly or not at all.

    Raises:
        ConfigError: it cannot be written.
    """
    part = _part(path)
    try:
        with _writing(path):
            part.write_text(tuned.to_yaml(), encoding="utf-8")
            part.replace(path)
    except ConfigError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def _writing(path: Path) -> contextlib.AbstractContextManager[None]:
    remedy = "name a file in a folder that can be written, on a disk with room"
    return file_errors(ConfigError, "write the file", "out", path, remedy)
