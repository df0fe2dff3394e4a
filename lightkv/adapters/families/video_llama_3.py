"""VideoLLaMA 3: dynamic grids whose merge each picture says; frames of a video lose what did not change.

The processor leaves out tokens of a frame that look like those of the frame before. The grid stays
whole: the cells of the others are known, so windows are regions of frames all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs, host_rows
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders


class VideoLlama3Adapter(HFAdapter):
    """`VideoLlama3ForConditionalGeneration`."""

    name = "video_llama_3"
    models = "VideoLLaMA 3"
    model_types = ("video_llama_3",)
    modalities = ("image", "video")

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        return [Picture((view,)) for view in whole_views(inputs, "image")]

    def videos(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        views, kept = whole_views(inputs, "video"), kept_features(inputs)
        if kept is None:
            return [Picture((view,)) for view in views]
        ends = np.cumsum([view.cells.size for view in views])[:-1]
        return [
            Picture((PictureView(view.grid, view.cells[own]),), encoded=view.cells.size)
            for view, own in zip(views, np.split(kept, ends), strict=True)
        ]

    def left_out(self, inputs: ModelInputs) -> int:
        kept = kept_features(inputs)
        return 0 if kept is None else int((~kept).sum())


def kept_features(inputs: ModelInputs) -> npt.NDArray[np.bool_] | None:
    """Which features of all videos stand in the prompt; None if all do."""
    mask = inputs.arguments.get("video_compression_mask")
    return None if mask is None else np.asarray(host_rows(mask), dtype=bool).reshape(-1)


def whole_views(inputs: ModelInputs, modality: str) -> list[PictureView]:
    """A view of each picture with a token for each cell."""
    grids = inputs.sizes(modality, f"{modality}_grid_thw")
    merges = np.asarray(inputs.sizes(modality, f"{modality}_merge_sizes")).reshape(-1)
    return [
        PictureView.plain(frames, rows // int(merge), columns // int(merge))
        for (frames, rows, columns), merge in zip(grids, merges, strict=True)
    ]
