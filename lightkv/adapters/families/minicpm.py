"""MiniCPM-V 4.6 and 4.7, MiniCPM-OCR: an overview, then its slices stitched into a view.

Each overview and each slice is a run of placeholders between two tags that are text; the tag before an
overview opens every picture, and a line break follows each row of slices. So the ids say how the slices
lie, and `target_sizes` how many patches each holds, of which 4 × 4 (2 × 2 with "4x") are one token.
Frames of a video follow one another like overviews; they are one view where none of them is sliced.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import (
    Picture,
    PictureView,
    Placeholders,
    originals,
    runs,
)

BETWEEN = 2
"""Text tokens between two slices of one row, or two frames: a closing and an opening tag."""


class Crop(NamedTuple):
    """An overview or a slice: where its run begins and ends, and its rows and columns of tokens."""

    start: int
    end: int
    grid: tuple[int, int]


class MiniCPMAdapter(HFAdapter):
    """`MiniCPMV4_6ForConditionalGeneration`, `MiniCPMV4_7…` and `MiniCPMOcr…`."""

    name = "minicpm"
    models = "MiniCPM-V 4.6, MiniCPM-V 4.7, MiniCPM-OCR"
    model_types = ("minicpmv4_6", "minicpmv4_7", "minicpm_ocr")
    modalities = ("image", "video")

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        frames = self._frames(config, inputs, here, "image", "target_sizes")
        return [sliced(frame) for row in frames for frame in row]

    def videos(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        rows = self._frames(config, inputs, here, "video", "target_sizes_videos")
        return [picture for row in rows for picture in clips(row)]

    @staticmethod
    def _frames(
        config: Any, inputs: ModelInputs, here: Placeholders, modality: str, name: str
    ) -> list[list[list[Crop]]]:
        """Per row its frames, of each the overview and its slices."""
        mode = inputs.optional(modality, "downsample_mode") or config.downsample_mode
        window = config.vision_config.window_kernel_size if mode != "4x" else (1, 1)
        down, across = (
            inner * outer**config.merger_times
            for inner, outer in zip(window, config.merge_kernel_size, strict=True)
        )
        grids = [
            (rows // down, columns // across) for rows, columns in inputs.sizes(modality, name)
        ]
        own = originals(here, sum(rows * columns for rows, columns in grids))
        assert inputs.input_ids is not None
        every, found = iter(grids), []
        for ids, row in zip(inputs.input_ids[:: len(here) // len(own)], own, strict=True):
            frames: list[list[Crop]] = []
            for start, end in runs(row):
                tag = int(ids[start - 1]) if start else -1
                if not frames:
                    opening = tag
                if not frames or tag == opening:
                    frames.append([])
                frames[-1].append(Crop(start, end, next(every, (0, 0))))
            found.append(frames)
        return found


def sliced(frame: Sequence[Crop]) -> Picture:
    """The picture of an overview and its slices."""
    overview, *slices = frame
    return Picture((PictureView.plain(1, *overview.grid), *slice_views(slices)))


def slice_views(slices: Sequence[Crop]) -> list[PictureView]:
    """The stitched view of slices; a view for each where they form no rectangle of equal ones."""
    if not slices:
        return []
    breaks = [after.start - before.end > BETWEEN for before, after in pairwise(slices)]
    rows, (high, wide) = 1 + sum(breaks), slices[0].grid
    columns = len(slices) // rows
    regular = all(broken == ((i + 1) % columns == 0) for i, broken in enumerate(breaks))
    if regular and len({each.grid for each in slices}) == 1:
        return [PictureView.mosaic(rows, columns, high, wide)]
    return [PictureView.plain(1, *each.grid) for each in slices]


def clips(frames: Sequence[Sequence[Crop]]) -> list[Picture]:
    """The videos of one row: frames that nothing but tags parts, as one view if none is sliced."""
    found: list[list[Sequence[Crop]]] = []
    for frame in frames:
        before = found[-1][-1] if found else None
        same = before is not None and len(before) == len(frame) == 1
        if same and _follows(before[0], frame[0]):  # type: ignore[index]
            found[-1].append(frame)
        else:
            found.append([frame])
    return [
        Picture((PictureView.plain(len(clip), *clip[0][0].grid),))
        if len(clip) > 1
        else sliced(clip[0])
        for clip in found
    ]


def _follows(before: Crop, after: Crop) -> bool:
    return before.grid == after.grid and after.start - before.end <= BETWEEN
