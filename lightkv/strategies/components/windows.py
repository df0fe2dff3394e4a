"""Windows in true geometry: whole views, or rectangles that are nested over the stages."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from lightkv.core.contracts import PROTECTED, Partition, Partitioner, WindowSpec
from lightkv.core.errors import ConfigError
from lightkv.core.layout import Bands, Groups, IntArray, SampleLayout, View


def one_band(view: View) -> Bands:
    """Bands of one window over the whole view."""
    frames, rows, columns = view.grid
    return (0,) * frames, (0,) * rows, (0,) * columns


def even_bands(length: int, count: int) -> IntArray:
    """`[length]` band of each of `length` cells when cut into `count` bands, the first ones longer."""
    parts = np.array_split(np.arange(length), count)
    return np.repeat(np.arange(count, dtype=np.int64), [part.size for part in parts])


class Whole(Partitioner):
    """One window over each view, image or sample; separators (newlines) stay.

    Attributes:
        scope: what one window covers. Windows over more than a view suit methods that drop; to
            merge tokens of different pictures makes no sense, so `view` is the default.
    """

    name = "whole"
    scope: Literal["view", "image", "sample"] = "view"

    def partition(self, sample: SampleLayout, groups: Groups, windows: WindowSpec) -> Partition:
        tokens = sample.tokens
        label = {
            "view": tokens.view,
            "image": tokens.image,
            "sample": np.zeros_like(tokens.view),
        }[self.scope]
        label = np.where(tokens.separator, PROTECTED, label)
        bands = tuple(one_band(v) if self.scope == "view" else None for v in sample.views)
        return Partition(label, bands=bands)


class Windows(Partitioner):
    """Rectangular windows of each view, in true geometry and nested over the stages.

    `windows: 4` cuts rows and columns of every frame into 4 bands as even as possible (the first
    ones are one longer). Later stages group the bands of the stage before, so each window is a
    union of earlier ones and its population is known. `{space: 4, time: 2}` also cuts the frames
    of a video into 2 bands; without `time` every frame stands alone. Audio has time alone: `windows: 4`
    cuts it into 4 parts, of `{space: 4, time: 2}` it takes the 2, and `{space: 4}` is an error. A side
    with fewer cells than windows has a window for each: a picture of one token keeps it.

    Attributes:
        frames: windows reach over at most so many frames of a clip, as evenly as can be (9 frames by 4:
            3, 3, 3), where the stage's entry does not say `time`. So windows last equally long however
            long a clip is. A stage that names more frames than the one before joins its windows. A still
            picture is one frame, whatever is said here; audio takes its windows from the entry.
        population: cut rows and columns (then the frames, where `time` is set) into more bands than the
            stage asks for until no window holds more current tokens than this. What matching costs then
            grows linearly with the number of vision tokens. `windows` may be left out of the schedule.
        clamp: what is done where less can be had than is asked for. None: a side of fewer cells than
            windows (a narrow picture) has a window for each cell; more windows than an earlier stage
            left, or a `population` that cannot be kept, are errors. True: none of these is an error.
            False: all are.
        budget: `window`: each window gives the same share. `view`: the windows of a view share one
            budget, so those with more redundancy give more; tokens still match inside their window
            only. How many each window keeps then depends on values, the view's total does not.
    """

    name = "windows"
    source = "LightKV, arXiv 2605.00789, section 3 (spatial sub-windows)"
    frames: int | None = Field(default=None, ge=1)
    population: int | None = Field(default=None, ge=2)
    clamp: bool | None = None
    budget: Literal["window", "view"] = "window"

    def partition(self, sample: SampleLayout, groups: Groups, windows: WindowSpec) -> Partition:
        self._check_budget()
        if windows is None and self.population is not None:
            windows = 1
        tokens = sample.tokens
        label = np.full(tokens.view.size, PROTECTED, dtype=np.int64)
        all_bands: list[Bands | None] = []
        offset = 0
        # Windows that share a budget need no known population: they are cut anew from the cells.
        known = groups if self.budget == "window" else Groups.singletons(sample)
        for number, cut in enumerate(known.bands):
            here = tokens.view == number
            counts = self._counts(windows, sample.views[number])
            bands = self._bands(sample, number, cut, groups, counts)
            window = offset + _windows_of(tokens.coordinates[here], bands)
            label[here] = np.where(tokens.separator[here], PROTECTED, window)
            offset += int(np.prod([max(axis) + 1 for axis in bands]))
            all_bands.append(bands)
        if self.budget == "window":
            return Partition(label, bands=tuple(all_bands))
        view = np.where(tokens.separator, PROTECTED, tokens.view)
        return Partition(view, bands=tuple(map(one_band, sample.views)), inner=label.clip(min=0))

    def _counts(self, windows: WindowSpec, view: View) -> tuple[int, int | None]:
        """Windows per side over space, and over time, of a view."""
        space, time = _space_time(windows, view)
        if time is None and self.frames is not None:
            time = -(-view.grid[0] // self.frames)
        return space, time

    def _check_budget(self) -> None:
        if self.population is not None and self.budget == "view":
            raise ConfigError(
                "windows that share the budget of their view are matched as one, however small they are",
                field="partitioner 'windows', population",
                value=self.population,
                remedy="use budget: window, or leave population out",
            )

    def _bands(
        self,
        sample: SampleLayout,
        view: int,
        known: Bands | None,
        groups: Groups,
        counts: tuple[int, int | None],
    ) -> Bands:
        """Bands of a view; `counts` are the windows asked for over space and over time."""
        if known is None:
            raise ConfigError(
                "windows cannot follow a stage whose survivors may lie anywhere in the image: "
                "how many fall into each window would depend on values",
                field="windows",
                remedy="use windows in the earlier stage too, or `whole` in this one",
            )
        space, time = counts
        bands = self._cut(view, known, (time, space, space))
        if self.population is None:
            return bands
        tokens = sample.tokens
        here = (tokens.view == view) & ~tokens.separator
        cells, share = tokens.coordinates[here], _current(groups)[here]
        frames, rows, columns = (max(axis) + 1 for axis in known)
        while (held := _largest(cells, share, bands)) > self.population:
            if space < max(rows, columns):
                # Fewer windows than this cannot do, so the search is short.
                planes = frames if time is None else time
                least = int((share.sum() / (planes * self.population)) ** 0.5)
                space = max(space + 1, min(least, rows, columns))
            elif time is not None and time < frames:
                least = int(share.sum() / (rows * columns * self.population))
                time = max(time + 1, min(least, frames))
            elif self.clamp:
                return bands
            else:
                raise ConfigError(
                    f"view {view} cannot be cut finer, and a window holds {held} tokens",
                    field="partitioner 'windows', population",
                    value=self.population,
                    remedy="bound the windows of the earlier stages too, or add clamp: true",
                )
            bands = self._cut(view, known, (time, min(space, rows), min(space, columns)))
        return bands

    def _cut(self, view: int, bands: Bands, counts: tuple[int | None, int, int]) -> Bands:
        frames, rows, columns = (
            axis if count is None else self._regroup(view, axis, count)
            for axis, count in zip(bands, counts, strict=True)
        )
        return frames, rows, columns

    def _regroup(self, view: int, axis: tuple[int, ...], count: int) -> tuple[int, ...]:
        current = max(axis) + 1
        if count > current:
            # A narrow picture is no one's mistake; windows finer than an earlier stage's are.
            narrow = current == len(axis)
            if self.clamp is False or not (narrow or self.clamp):
                raise ConfigError(
                    f"{count} windows per side do not fit view {view}, which has {current} bands "
                    "on an axis" + ("" if narrow else " after an earlier stage"),
                    field="windows",
                    value=count,
                    remedy=f"use at most {current}"
                    + (
                        ", or leave clamp: false out"
                        if narrow
                        else ", or {name: windows, clamp: true}"
                    ),
                )
            count = current
        group = even_bands(current, count)
        return tuple(int(group[band]) for band in axis)


def _space_time(windows: WindowSpec, view: View) -> tuple[int, int | None]:
    """Windows per side over space, and over time, of a view."""
    if windows is None:
        raise ConfigError(
            "the partitioner 'windows' needs to know how many",
            field="windows",
            remedy="set it in the schedule, such as {after_layer: 15, windows: 4, ratio: 0.5}",
        )
    if view.modality == "audio":
        return 1, _over_time(windows)
    if isinstance(windows, int):
        return windows, None
    if "space" not in windows:
        raise ConfigError(
            "windows over time need windows over space too",
            field="windows",
            value=windows,
            remedy="such as {space: 4, time: 2}",
        )
    return windows["space"], windows.get("time")


def _over_time(windows: int | dict[Literal["space", "time"], int]) -> int:
    """Windows of audio, which has no other side than time."""
    if isinstance(windows, int):
        return windows
    if "time" not in windows:
        raise ConfigError(
            "audio has no rows and columns that windows over space could cut",
            field="windows",
            value=windows,
            remedy=f"use windows: {windows.get('space', 4)} (for audio so many over time), or say how "
            "many over time: {space: 4, time: 2}",
        )
    return windows["time"]


def _windows_of(cells: IntArray, bands: Bands) -> IntArray:
    """Number of the window of each of `[n, 3]` coordinates."""
    at = [np.asarray(axis, dtype=np.int64) for axis in bands]
    frame, row, column = (at[i][cells[:, i]] for i in range(3))
    return (frame * (int(at[1].max()) + 1) + row) * (int(at[2].max()) + 1) + column


def _largest(cells: IntArray, share: npt.NDArray[np.float64], bands: Bands) -> int:
    """Current tokens in the fullest window; `share` is what each of the cells `[n, 3]` stands for."""
    if not cells.size:
        return 0
    return round(float(np.bincount(_windows_of(cells, bands), weights=share).max()))


def _current(groups: Groups) -> npt.NDArray[np.float64]:
    """`[V₀]` current tokens that each original token stands for: whole numbers over a group."""
    originals = np.bincount(groups.label, minlength=groups.population.size)
    return (groups.population / np.maximum(originals, 1))[groups.label]
