"""What a picture of a run is made of: views, stages and runs. Host data; no model, no tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

DROPPED = -1
"""Home of a patch that no token holds any more."""
IN_TEXT = -2
"""Home of a patch that a cache entry of the text took in."""

Source = Literal["encoder", "stretched"]


@dataclass(frozen=True, eq=False)
class ShownView:
    """One view of one picture, or one frame of a clip, ready to be drawn.

    Attributes:
        title: such as `picture 1`, `picture 1, view 2` or `clip 1, frame 3`.
        tokens: `[rows, columns]` number of the original vision token that shows each cell, −1 where
            none does. Numbers count the vision tokens of the prompt in sequence order.
        pixels: what the cells cover, edge to edge.
        source: `encoder`: the pixels that went into the vision encoder; `stretched`: the whole
            picture laid over the grid.
        clip: number of the clip that it is a frame of, from 0; None for a picture. Frames of a clip
            follow one another, and cells of one place show the same spot.
    """

    title: str
    tokens: IntArray
    pixels: Image.Image
    source: Source
    clip: int | None = None

    @property
    def rows(self) -> int:
        return int(self.tokens.shape[0])

    @property
    def columns(self) -> int:
        return int(self.tokens.shape[1])


@dataclass(frozen=True, eq=False)
class ShownStage:
    """Where each of the V original vision tokens was after a stage.

    Attributes:
        title: such as `after layer 4` or `cache of layer 7`.
        layer: layers that ran before the stage; on the cache the layer whose entries these are.
        site: `layers` or `cache`.
        home: `[V]` the original token whose place the token takes that now holds this one, or
            `DROPPED`, or `IN_TEXT`. Equal homes are one group.
        weight: `[V]` its share in that token, over all stages so far; 0 for a dropped one.
        guidance: `[V]` importance that the scorer gave to the token that held this one when the
            stage began, NaN where none did; None for a strategy without scorer.
        left: vision tokens after the stage.
        entered: vision tokens that it began with; on the cache those of its layer.
    """

    title: str
    layer: int
    site: Literal["layers", "cache"]
    home: IntArray
    weight: FloatArray
    guidance: FloatArray | None
    left: int
    entered: int

    @property
    def groups(self) -> dict[int, list[int]]:
        """Home → its tokens, ascending; dropped tokens are in none."""
        found: dict[int, list[int]] = {}
        for token, home in enumerate(self.home.tolist()):
            if home >= 0:
                found.setdefault(home, []).append(token)
        return found

    @property
    def sizes(self) -> IntArray:
        """`[V]` tokens in the group of each token, 0 for those in none."""
        homes = np.where(self.home < 0, self.home.size, self.home)
        counts = np.bincount(homes, minlength=self.home.size + 1)
        return np.where(self.home < 0, 0, counts[homes]).astype(np.int64)


def differing(one: ShownStage, other: ShownStage) -> int:
    """Patches that share their token with other patches in `one` than in `other`."""
    mine, theirs = one.groups, other.groups
    pairs = zip(one.home.tolist(), other.home.tolist(), strict=True)
    # Dropped here and there is alike.
    return sum(mine.get(here, []) != theirs.get(there, []) for here, there in pairs)


@dataclass(frozen=True, eq=False)
class ShownRun:
    """One prompt under one strategy.

    Attributes:
        prompt, answer: of the model, compressed.
        strategy: name of the pipeline.
        retention: achieved, mean over layers.
        tokens: vision tokens in each layer's cache.
        stages: in the order in which they ran.
        remark: what cannot be shown, or "".
    """

    prompt: str
    answer: str
    strategy: str
    retention: float
    tokens: tuple[int, ...]
    stages: tuple[ShownStage, ...]
    remark: str = ""


def differences(runs: Sequence[ShownRun], number: int) -> list[int] | None:
    """`differing` of each stage of a run from the same stage under the prompt before.

    None where the run before it is of another strategy or had other stages.
    """
    run, before = runs[number], runs[number - 1]
    if number == 0 or run.strategy != before.strategy:
        return None
    if [stage.title for stage in run.stages] != [stage.title for stage in before.stages]:
        return None
    return [differing(*pair) for pair in zip(run.stages, before.stages, strict=True)]


@dataclass(frozen=True, eq=False)
class Picture:
    """Views of the same pictures and clips, and the runs that are compared on them.

    Attributes:
        model: its name.
        views: everything with a grid, picture by picture and frame by frame.
        runs: one for each prompt and strategy.
        count: V, vision tokens of the prompt, separators (newlines, class tokens) included.
    """

    model: str
    views: tuple[ShownView, ...]
    runs: tuple[ShownRun, ...]
    count: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without the pixels; NaN becomes None."""
        return {
            "model": self.model,
            "count": self.count,
            "views": [
                {
                    "title": view.title,
                    "tokens": view.tokens.tolist(),
                    "source": view.source,
                    "clip": view.clip,
                }
                for view in self.views
            ],
            "runs": [
                {**_run_dict(run), "differences": differences(self.runs, number)}
                for number, run in enumerate(self.runs)
            ],
        }


def _run_dict(run: ShownRun) -> dict[str, Any]:
    stages = [
        {
            **vars(stage),
            "home": stage.home.tolist(),
            "weight": _rounded(stage.weight),
            "guidance": None if stage.guidance is None else _rounded(stage.guidance),
        }
        for stage in run.stages
    ]
    return {**vars(run), "tokens": list(run.tokens), "stages": stages}


def _rounded(values: FloatArray) -> list[float | None]:
    """Six digits are more than a reader needs, and half the page."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values.tolist()]
