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

`lightkv.lab.grids.expand` expands it. A grid knows no model: `lightkv.lab.grids.cells` builds its
combinations on one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator

from lightkv.core import yamls
from lightkv.core.errors import nearest
from lightkv.core.strict import Plain, Seed
from lightkv.lab.errors import GridError
from lightkv.lab.grids.expand import (
    VANILLA,
    Combination,
    expand,
    models_of,
    settings_of,
    tasks_of,
)
from lightkv.lab.grids.short_forms import (
    CHANGES,
    check_change,
    check_seed,
    empty_product,
    grid_error,
    label_text,
    normal_form,
)
from lightkv.lab.outcomes import has_surrogates

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


class Grid(Plain):
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
    def parse(cls, data: Any, folder: Path | None = None) -> Grid:
        """From plain data; paths of pipelines are relative to `folder`.

        Raises:
            GridError: an unknown key, an empty product, a label that does not exist.
            ConfigError: an unknown preset or task.
        """
        if isinstance(data, Grid):
            return data
        if not isinstance(data, Mapping):
            raise GridError(
                "a grid is a mapping",
                field="grid",
                value=type(data).__name__,
                remedy=f"its keys are: {', '.join(cls.model_fields)}",
            )
        unknown = [str(key) for key in data if key not in cls.model_fields]
        if unknown:
            raise GridError(
                "a grid has no such key",
                field=f"grid, {unknown[0]}",
                remedy=f"{nearest(unknown[0], cls.model_fields)}There are: "
                f"{', '.join(cls.model_fields)}",
            )
        try:
            grid = cls.model_validate(normal_form(dict(data), folder))
        except ValidationError as error:
            raise grid_error(error) from error
        grid.check()
        return grid

    @classmethod
    def read(cls, path: str | Path) -> Grid:
        """From a YAML file (safe load: no code, no objects).

        Raises:
            GridError: no such file, not YAML, a key twice in a mapping, or what `parse` refuses.
        """
        path = Path(path)
        try:
            data = yamls.read(path)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise GridError(
                f"cannot read the grid ({' '.join(str(error).split())[:300]})",
                field="grid",
                value=str(path),
                remedy="give a YAML file; docs/lab.md shows one",
            ) from error
        return cls.parse(data, path.absolute().parent)

    def plain(self) -> dict[str, Any]:
        """All of it as plain data, pipelines written out; `parse` reads it back."""
        return self.model_dump(mode="json")

    # -- checks -----------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise `GridError` for what cannot be meant."""
        if has_surrogates(json.dumps(self.plain(), ensure_ascii=False)):
            raise GridError(
                "half a surrogate pair (\\ud800 to \\udfff) is no text",
                field="grid",
                remedy="write the character itself",
            )
        for seed in self.seeds:
            check_seed("grid, seeds", seed)
        for key, values in (("seeds", self.seeds), ("retention", self.retention)):
            if values is not None and not values:
                raise empty_product(key)
        for axis, labels in self.axes.items():
            if axis in RESERVED:
                raise GridError(
                    "the name is taken by a key of the grid",
                    field=f"axes, {axis}",
                    remedy=f"call it otherwise, or use the key {axis!r}",
                )
            if not labels:
                raise empty_product(f"axes, {axis}")
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
            if word not in known:
                raise GridError(
                    "the grid has no such factor" if word == key else f"{key} has no such label",
                    field=where,
                    value=word,
                    remedy=f"{nearest(word, known)}There are: {', '.join(known) or 'none'}",
                )

    def factors(self) -> dict[str, list[str]]:
        """Factor → its labels."""
        explicit = [cell["name"] for cell in self.cells]
        found = {axis: list(labels) for axis, labels in self.axes.items()}
        retention = [label_text(value) for value in self.retention or ()]
        seeds = [str(seed) for seed in self.seeds]
        return {
            **found,
            "cell": explicit + ([VANILLA] if self.vanilla else []),
            "model": list(models_of(self)),
            "task": list(tasks_of(self)),
            "retention": list(dict.fromkeys(retention + settings_of(self, "retention"))),
            "seed": list(dict.fromkeys(seeds + settings_of(self, "seed"))),
        }

    # -- combinations -----------------------------------------------------------------------------

    def combinations(self) -> list[Combination]:
        """All of them, in order: vanilla, the product of the axes, the explicit cells.

        Raises:
            GridError: there are none.
        """
        found = expand(self)
        if not found:
            raise GridError(
                "the grid has no cells",
                field="grid",
                remedy="give axes, cells, retention, or vanilla: true",
            )
        return found
