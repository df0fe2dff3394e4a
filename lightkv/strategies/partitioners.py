"""How tokens are split into windows: one over everything, or rectangles in true geometry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from pydantic import Field

from lightkv.core.errors import ConfigError
from lightkv.core.hookspecs import hookimpl
from lightkv.core.layout import Bands, Groups, SampleLayout, View
from lightkv.core.roles import PROTECTED, Component, Partition, Partitioner, WindowSpec


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


def one_band(view: View) -> Bands:
    """Bands of one window over the whole view."""
    frames, rows, columns = view.grid
    return (0,) * frames, (0,) * rows, (0,) * columns


def each_cell(sample: SampleLayout, view: int) -> Bands:
    """Bands as narrow as the cells of a view."""
    frames, rows, columns = (tuple(range(side)) for side in sample.views[view].grid)
    return frames, rows, columns


class Windows(Partitioner):
    """Rectangular windows of each view, in true geometry and nested over the stages.

    `windows: 4` cuts rows and columns of every frame into 4 bands as even as possible (the first
    ones are one longer). Later stages group the bands of the stage before, so each window is a
    union of earlier ones and its population is known. `{space: 4, time: 2}` also cuts the frames
    of a video into 2 bands; without `time` every frame stands alone.

    Attributes:
        clamp: use as many windows as an axis has bands where more are asked for, instead of an
            error (small images of dynamic-resolution models).
        budget: `window`: each window gives the same share. `view`: the windows of a view share one
            budget, so those with more redundancy give more; tokens still match inside their window
            only. How many each window keeps then depends on values, the view's total does not.
        population: windows are cut further, along their longest side, until none holds more tokens
            than this (on average over the view). Matching costs tokens × population, so with a bound
            it grows in proportion to a long video instead of its square. None for no bound.
    """

    name = "windows"
    source = "LightKV, arXiv 2605.00789, section 3 (spatial sub-windows)"
    clamp: bool = False
    budget: Literal["window", "view"] = "window"
    population: int | None = Field(default=None, ge=2)

    def partition(self, sample: SampleLayout, groups: Groups, windows: WindowSpec) -> Partition:
        space, time = _space_time(windows)
        tokens = sample.tokens
        label = np.full(tokens.view.size, PROTECTED, dtype=np.int64)
        all_bands: list[Bands | None] = []
        offset = 0
        for number in range(len(sample.views)):
            known = groups.bands[number] if self.budget == "window" else each_cell(sample, number)
            here = tokens.view == number
            bands = self._bands(number, known, space, time, _density(groups, here))
            at = [np.asarray(axis, dtype=np.int64) for axis in bands]
            sides = [int(axis.max()) + 1 for axis in at]
            frame, row, column = (at[i][tokens.coordinates[here, i]] for i in range(3))
            window = offset + (frame * sides[1] + row) * sides[2] + column
            label[here] = np.where(tokens.separator[here], PROTECTED, window)
            offset += sides[0] * sides[1] * sides[2]
            all_bands.append(bands)
        if self.budget == "window":
            return Partition(label, bands=tuple(all_bands))
        view = np.where(tokens.separator, PROTECTED, tokens.view)
        return Partition(view, bands=tuple(map(one_band, sample.views)), inner=label.clip(min=0))

    def _bands(
        self, view: int, bands: Bands | None, space: int, time: int | None, density: float
    ) -> Bands:
        if bands is None:
            raise ConfigError(
                "windows cannot follow a stage whose survivors may lie anywhere in the image: "
                "how many fall into each window would depend on values",
                field="windows",
                remedy="use windows in the earlier stage too, or `whole` in this one",
            )
        counts = (None if time is None else time, space, space)
        cut = [
            axis if count is None else self._regroup(view, axis, count)
            for axis, count in zip(bands, counts, strict=True)
        ]
        if self.population is not None:
            cut = self._cut_further(view, bands, cut, self.population / density)
        return cut[0], cut[1], cut[2]

    def _cut_further(
        self, view: int, bands: Bands, cut: list[tuple[int, ...]], most: float
    ) -> list[tuple[int, ...]]:
        """More windows along the longest side until none has more than `most` cells."""
        cut = list(cut)
        while True:
            longest = [max(np.bincount(axis), default=1) for axis in cut]
            # Bands of the stage before stay whole: a side of one band cannot be cut.
            able = [max(new) < max(old) for new, old in zip(cut, bands, strict=True)]
            if np.prod(longest) <= most or not any(able):
                return cut
            side = max(range(3), key=lambda i: (able[i], longest[i]))
            # Twice as many keeps the windows even, and even ones share one matrix product.
            count = min(2 * (max(cut[side]) + 1), max(bands[side]) + 1)
            cut[side] = self._regroup(view, bands[side], count)

    def _regroup(self, view: int, axis: tuple[int, ...], count: int) -> tuple[int, ...]:
        current = max(axis) + 1
        if count > current:
            if not self.clamp:
                raise ConfigError(
                    f"{count} windows per side do not fit view {view}, which has {current} bands "
                    "on an axis",
                    field="windows",
                    value=count,
                    remedy=f"use at most {current}, or {{name: windows, clamp: true}}",
                )
            count = current
        group = np.concatenate(
            [
                np.full(part.size, i)
                for i, part in enumerate(np.array_split(np.arange(current), count))
            ]
        )
        return tuple(int(group[band]) for band in axis)


def _density(groups: Groups, here: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
    """Current tokens for each original one of a view."""
    held = groups.population[np.unique(groups.label[here])].sum()
    return max(float(held), 1.0) / max(int(here.sum()), 1)


def _space_time(windows: WindowSpec) -> tuple[int, int | None]:
    if windows is None:
        raise ConfigError(
            "the partitioner 'windows' needs to know how many",
            field="windows",
            remedy="set it in the schedule, such as {after_layer: 15, windows: 4, ratio: 0.5}",
        )
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


@hookimpl
def lightkv_components(register: Callable[[type[Component]], None]) -> None:
    for component in (Whole, Windows):
        register(component)
