"""A search as data: the space of designs, the data, and how long to look.

name: gentler
model: demo
task: {name: scenes, scenes: 200, seed: 1}
held_out: {name: scenes, scenes: 500, seed: 2}
base: lightkv
retention: [0.35, 0.2]
space:
  matcher: {any: [bipartite, {name: guided, split: {any: [importance, order]}}]}
  schedule: {ratio: {from: 0.3, to: 0.6}}
start: [lightkv, lightkv-plus]
trials: 60
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from lightkv.core.errors import check_known
from lightkv.core.pipeline.changes import PIPELINE_KEYS
from lightkv.core.strict import Seed, check_plain, is_number
from lightkv.lab.designs.space import Choice, open_values
from lightkv.lab.errors import SearchError
from lightkv.lab.grids.changes import base_data, written_out
from lightkv.lab.grids.schema import VANILLA, placed
from lightkv.lab.studies import DEFAULTS, Study
from lightkv.lab.tasks import build_task

MAY_VARY = ("base", *PIPELINE_KEYS)
"""Keys of `space`: what a label of a grid may change of a pipeline."""
GOES_ON = ("trials",)
"""Keys that may be changed between two runs into the same file."""
TAKEN = ("trial ", "held-out ")
"""How names of other cells than those of `start` begin."""
Share = Annotated[float, Field(gt=0.0, lt=1.0)]


class SearchStudy(Study):
    """A search over designs.

    Attributes:
        name: of the study.
        model: `demo`, a checkpoint directory or a hub id.
        dtype: to load it in.
        task: that designs are compared on: a name or `{name: …, parameter: …}`.
        held_out: other data, asked once, when the search is over: a task, or the share of the
            pictures of `task` that the search does not see.
        base: the pipeline that the space changes: a preset, the path of a YAML, or the pipeline.
        retention: mean shares of vision KV; each is tried in turn, so all have as many trials.
        space: what varies: roles, `proportional`, `schedule` or `base`, with open values.
        start: presets or pipelines made by hand, label → pipeline; run first, at every retention,
            on all samples.
        trials: designs to draw in all.
        sampler: `tpe` (tree-structured Parzen estimator), `nsga2` or `random`.
        prune: probability of error of the bounds that end a trial early; None: none ends early.
        max_drop: a trial also ends where it is shown to lose more than this against the uncompressed
            model; None: however much it loses.
        seed: of the sampler, the order of pictures and components that draw.
    """

    noun: ClassVar[str] = "study"
    error: ClassVar[type[SearchError]] = SearchError
    page: ClassVar[str] = "docs/lab-search.md"

    name: str = "search"
    model: str = "demo"
    dtype: str = "auto"
    task: dict[str, Any]
    held_out: Share | dict[str, Any] | None = None
    base: dict[str, Any]
    retention: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = Field(min_length=1)
    space: dict[str, Any]
    start: dict[str, dict[str, Any]] = {}
    trials: int = Field(default=100, ge=1)
    sampler: Literal["tpe", "nsga2", "random"] = "tpe"
    prune: Annotated[float, Field(gt=0.0, lt=0.5)] | None = 0.1
    max_drop: Annotated[float, Field(gt=0.0)] | None = None
    seed: Annotated[Seed, Field(ge=0, lt=2**32)] = 0

    @classmethod
    def normal_form(cls, data: dict[str, Any], folder: Path | None) -> dict[str, Any]:
        """Short forms written out: one retention, names of presets, a list of them, the task's name."""
        check_plain(data, cls.noun)
        return _normal_form(data, folder)

    @classmethod
    def written_out(cls, key: str, name: str, folder: Path) -> dict[str, Any]:
        """A preset or a pipeline file as `base`; else a name stands for `{name: …}`."""
        return written_out(key, name, folder)

    def identity(self) -> dict[str, Any]:
        """What a results file must have been begun with to go on with this study."""
        kept = {key: value for key, value in self.plain().items() if key not in GOES_ON}
        return {"name": self.name, "search": kept}

    def check(self) -> None:
        """Raise `SearchError` for what cannot be meant."""
        for key in self.space:
            what = "a search cannot vary that"
            check_known(SearchError, what, "space", key, MAY_VARY)
        if len(set(self.retention)) < len(self.retention):
            raise SearchError("a retention is there twice", field="retention", value=self.retention)
        if not any(
            not isinstance(one, Choice) or len(one.options) > 1 for one in open_values(self.space)
        ):
            raise SearchError(
                "nothing varies",
                field="space",
                remedy="leave a value open, such as {from: 0.3, to: 0.6} or {any: [keep, renumber]}",
            )
        if self.held_out == self.task:
            raise SearchError(
                "the held-out data are those of the search",
                field="held_out",
                remedy="give scenes of another seed, another file, or a share such as 0.5",
            )


def _normal_form(data: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    data["task"] = build_task(placed(data.get("task", DEFAULTS["task"]), folder)).spec()
    held_out = data.get("held_out")
    if held_out is not None and not is_number(held_out):
        data["held_out"] = build_task(placed(held_out, folder)).spec()
    data["base"] = base_data(data.get("base", DEFAULTS["base"]), folder)
    if is_number(data.get("retention")):
        data["retention"] = [data["retention"]]
    space = data.get("space")
    if not isinstance(space, Mapping):
        raise SearchError(
            "the space is a mapping: part of a pipeline → what it may be",
            field="space",
            value=space,
            remedy="such as {positions: {any: [keep, barycentric]}}",
        )
    data["start"] = _start(data.get("start") or {}, folder)
    return data


def _start(given: Any, folder: Path | None) -> dict[str, Any]:
    if isinstance(given, str):
        given = [given]
    if isinstance(given, list | tuple) and all(isinstance(each, str) for each in given):
        given = {Path(each).stem: each for each in given}
    if not isinstance(given, Mapping):
        raise SearchError(
            "start is a list of presets and pipeline files, or label: pipeline",
            field="start",
            value=given,
            remedy="such as [lightkv, fastv]",
        )
    found = {str(label): base_data(source, folder) for label, source in given.items()}
    for label in found:
        if label == VANILLA or label.startswith(TAKEN):
            raise SearchError(
                "the label is that of another cell of the search",
                field="start",
                value=label,
                remedy="call it otherwise, as {mine: PIPELINE}",
            )
    return found
