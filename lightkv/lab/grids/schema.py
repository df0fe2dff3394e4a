"""A grid as data: what varies, what is left out, and the combinations that follow.

    name: parts
    model: demo
    task: {name: scenes, scenes: 500}
    base: lightkv
    retention: [0.55, 0.35]
    axes:
      guidance:
        prompt: {}
        uniform: {scorer: uniform}
    baseline: {guidance: prompt}

What its YAML may say in short is written out when it is read. `lightkv.lab.grids.expand` makes its
combinations. A grid knows no model: `lightkv.lab.grids.cells` builds its combinations on one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from lightkv.core.errors import check_known
from lightkv.core.pipeline.solver import check_one_share
from lightkv.core.strict import Plain, Seed
from lightkv.lab.errors import GridError
from lightkv.lab.grids.changes import (
    CHANGES,
    base_data,
    check_change,
    label_text,
    written_out,
)
from lightkv.lab.studies import DEFAULTS, Study
from lightkv.lab.tasks import build_task

VANILLA = "vanilla"
"""Label of the uncompressed model."""
RESERVED = ("model", "task", "retention", "seed", "cell")
"""Factors that every grid has; no axis may take their names."""

Labels = dict[str, Any]


class Skip(Plain):
    """Combinations that are left out.

    Attributes:
        where: factor → label or list of labels; all must hold.
        reason: recorded with each of them.
    """

    where: dict[str, tuple[str, ...]] = Field(min_length=1)
    reason: str = "left out by the grid"

    @field_validator("where", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {
            str(k): [label_text(v) for v in (vs if isinstance(vs, list | tuple) else [vs])]
            for k, vs in value.items()
        }

    def matches(self, factors: Mapping[str, str]) -> bool:
        """Whether a combination is left out."""
        return all(factors.get(key) in labels for key, labels in self.where.items())


class Grid(Study):
    """An ablation study.

    Attributes:
        name: of the study.
        model: `demo`, a checkpoint directory or a hub id; a list of them; or label → one of them.
        dtype: to load models in.
        task: a task as a name or `{name: …, parameter: …}`; a list; or label → one of them.
        base: the pipeline that axes change: a preset, the path of a pipeline YAML, or the pipeline.
        retention: wanted, one or several; None leaves the pipelines' own.
        seeds: of random components and of torch.
        axes: name → label → what it changes. All combinations are run.
        cells: further combinations, each with a `name` and what it changes; crossed with models,
            tasks, retention and seeds where it does not set them itself.
        skip: combinations that are left out, with the reason.
        vanilla: run the uncompressed model too, on each model and task; tasks that are relative to
            it run it anyway.
        baseline: what cells are compared with: the name of a cell, or factor → label (other factors
            as in the cell itself); `vanilla` by default. Always of the same model and task.
        equalise: `achieved`: recipes are solved so that the achieved retention comes as near to the
            wanted one as rounding allows; `planned`: before rounding.
    """

    noun: ClassVar[str] = "grid"
    error: ClassVar[type[GridError]] = GridError
    page: ClassVar[str] = "docs/lab.md"

    name: str = "grid"
    model: Labels
    dtype: str = "auto"
    task: Labels
    base: dict[str, Any]
    retention: tuple[float, ...] | None = None
    seeds: tuple[Seed, ...] = (0,)
    axes: dict[str, dict[str, dict[str, Any]]] = {}
    cells: tuple[dict[str, Any], ...] = ()
    skip: tuple[Skip, ...] = ()
    vanilla: bool = True
    baseline: str | dict[str, str] | None = None
    equalise: Literal["achieved", "planned"] = "achieved"

    @classmethod
    def normal_form(cls, data: dict[str, Any], folder: Path | None) -> dict[str, Any]:
        """Short forms written out: one model, one task, a preset's name, one retention."""
        return _normal_form(data, folder)

    @classmethod
    def written_out(cls, key: str, name: str, folder: Path) -> dict[str, Any]:
        """A preset or a pipeline file as `base`; else a name stands for `{name: …}`."""
        return written_out(key, name, folder)

    # -- checks -----------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise `GridError` for what cannot be meant."""
        for key, values in (("seeds", self.seeds), ("retention", self.retention)):
            if values is not None and not values:
                raise _empty_product(key)
        for retention in self.retention or ():
            check_one_share(retention, "retention", GridError)
        for axis, labels in self.axes.items():
            if axis in RESERVED:
                raise GridError(
                    "the name is taken by a key of the grid",
                    field=f"axes, {axis}",
                    remedy=f"call it otherwise, or use the key {axis!r}",
                )
            if not labels:
                raise _empty_product(f"axes, {axis}")
            for label, change in labels.items():
                check_change(f"axes, {axis}, {label}", change, CHANGES)
        for number, cell in enumerate(self.cells):
            check_change(f"cells[{number}]", cell, ("name", *CHANGES))
            if not isinstance(cell.get("name"), str):
                raise GridError("an explicit cell has a name", field=f"cells[{number}]")
        if self.retention is not None:
            for axis, labels in self.axes.items():
                if any("retention" in change for change in labels.values()):
                    raise GridError(
                        "the grid gives the retention already",
                        field=f"axes, {axis}",
                        remedy="leave one of the two out",
                    )
        for number, skip in enumerate(self.skip):
            for key, found in skip.where.items():
                self._check_labels(f"skip[{number}]", key, found)
        if isinstance(self.baseline, dict):
            for key, label in self.baseline.items():
                self._check_labels("baseline", key, (label,))

    def _check_labels(self, where: str, key: str, labels: tuple[str, ...]) -> None:
        factors = self.factors()
        for word, known in [(key, list(factors))] + [(x, factors.get(key, [])) for x in labels]:
            what = "the grid has no such factor" if word == key else f"{key} has no such label"
            check_known(GridError, what, where, word, known)

    def factors(self) -> dict[str, list[str]]:
        """Factor → its labels."""
        explicit = [cell["name"] for cell in self.cells]
        found = {axis: list(labels) for axis, labels in self.axes.items()}
        retention = [label_text(value) for value in self.retention or ()]
        seeds = [str(seed) for seed in self.seeds]
        return {
            **found,
            "cell": explicit + ([VANILLA] if self.vanilla else []),
            "model": list(self.models()),
            "task": list(self.tasks()),
            "retention": list(dict.fromkeys(retention + self._labels("retention"))),
            "seed": list(dict.fromkeys(seeds + self._labels("seed"))),
        }

    def models(self) -> dict[str, str]:
        """Label → model, those included that only a label of an axis or a cell names."""
        return _with_further(self.model, self._changes("model"), lambda m: Path(m).name or m)

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Label → task, those included that only a label of an axis or a cell names."""
        specs = (build_task(task).spec() for task in self._changes("task"))
        return _with_further(self.task, specs, lambda task: task["name"])

    def _labels(self, key: str) -> list[str]:
        """Labels that axes and cells give to a factor of every grid: a retention, a seed."""
        return [label_text(value) for value in self._changes(key)]

    def _changes(self, key: str) -> Iterator[Any]:
        """What labels of axes and explicit cells set a key to."""
        labels = (change for axis in self.axes.values() for change in axis.values())
        return (change[key] for change in (*labels, *self.cells) if key in change)


def _with_further(given: Mapping[str, Any], further: Iterable[Any], short: Any) -> dict[str, Any]:
    """Labels of what the grid gives and of what comes on top: never one label for two things."""
    found = dict(given)
    for value in further:
        if value in found.values():
            continue
        name = short(value)
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        label = next(n for n in itertools.chain([name], numbered) if n not in found)
        found[label] = value
    return found


# -- short forms ----------------------------------------------------------------------------------


def _normal_form(data: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    data["model"] = _labelled("model", data.get("model", "demo"), str, lambda m: Path(m).name or m)
    data["task"] = _labelled(
        "task",
        data.get("task", DEFAULTS["task"]),
        lambda t: build_task(placed(t, folder)).spec(),
        lambda t: t["name"],
    )
    data["base"] = base_data(data.get("base", DEFAULTS["base"]), folder)
    if isinstance(data.get("retention"), int | float):
        data["retention"] = [data["retention"]]
    axes = data.get("axes") or {}
    if not isinstance(axes, Mapping) or not all(isinstance(v, Mapping) for v in axes.values()):
        raise GridError(
            "axes are a mapping: name → label → what it changes",
            field="axes",
            value=axes if not isinstance(axes, Mapping) else None,
            remedy="such as {guidance: {prompt: {}, uniform: {scorer: uniform}}}",
        )
    data["axes"] = {
        axis: {
            label: _based(f"axes, {axis}, {label}", change or {}, folder)
            for label, change in _in_words(f"axes, {axis}", labels).items()
        }
        for axis, labels in _in_words("axes", axes).items()
    }
    cells = data.get("cells") or ()
    if not isinstance(cells, list | tuple):
        raise GridError(
            "cells are a list",
            field="cells",
            value=cells,
            remedy="such as [{name: fastv, base: fastv}]",
        )
    data["cells"] = [_based(f"cells[{number}]", cell, folder) for number, cell in enumerate(cells)]
    if isinstance(data.get("baseline"), Mapping):
        data["baseline"] = {str(k): label_text(v) for k, v in data["baseline"].items()}
    return {key: value for key, value in data.items() if value is not None or key == "retention"}


def _in_words(where: str, labels: Mapping[Any, Any]) -> dict[str, Any]:
    """A mapping with its labels as text; two of one text, as `on` and "on", are an error."""
    found: dict[str, Any] = {}
    for label, value in labels.items():
        if label_text(label) in found:
            raise GridError("two labels are the same", field=where, value=label_text(label))
        found[label_text(label)] = value
    return found


def placed(task: Any, folder: Path | None) -> Any:
    """A task whose path, or whose inner task's, is relative to the grid's folder."""
    if folder is None or not isinstance(task, Mapping):
        return task
    found = {key: placed(value, folder) if key == "of" else value for key, value in task.items()}
    if isinstance(found.get("path"), str):
        found["path"] = str(folder / Path(found["path"]).expanduser())
    return found


def _based(where: str, change: Any, folder: Path | None) -> Any:
    """A change whose pipeline is written out, so that the grid holds everything."""
    check_change(where, change, ("name", *CHANGES))
    change = dict(change)
    if "base" in change:
        change["base"] = base_data(change["base"], folder)
    if "task" in change:
        change["task"] = build_task(placed(change["task"], folder)).spec()
    return change


def _labelled(key: str, given: Any, read: Any, name: Any) -> dict[str, Any]:
    """One value, a list of values or label → value, as label → value."""
    if isinstance(given, Mapping) and "name" not in given:
        found = {label: read(value) for label, value in _in_words(key, given).items()}
    else:
        values = [read(v) for v in (given if isinstance(given, list | tuple) else [given])]
        found = {name(value): value for value in values}
        if len(found) < len(values):
            raise GridError(
                "two entries have the same name",
                field=key,
                value=", ".join(name(value) for value in values),
                remedy="give a mapping of labels to them",
            )
    if not found:
        raise _empty_product(key)
    return found


def _empty_product(key: str) -> GridError:
    """The error for a factor without values."""
    return GridError(
        "the product is empty: there are no values",
        field=key,
        remedy="give at least one, or leave the key out",
    )
