"""Qwen2-VL, Qwen2.5-VL and what is built like them: a dynamic grid for each picture.

Tokens of a picture come frame by frame in raster order of (t, h / merge, w / merge); window
reordering inside the Qwen2.5 tower is undone there. Where there are three rotary axes, they are merged
into one (cos, sin) before the layers, so survivors that keep their positions need nothing special.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Picture, PictureView, Placeholders


class QwenVLAdapter(HFAdapter):
    """`Qwen2VLForConditionalGeneration`, `Qwen2_5_VLForConditionalGeneration` and others."""

    name = "qwen_vl"
    models = (
        "Qwen2-VL, Qwen2.5-VL, Qwen3.5, its MoE, LFM3-VL, PaddleOCR-VL, Cosmos 3 Edge, MiniMax M3"
    )
    model_types: ClassVar[tuple[str, ...]] = (
        "qwen2_vl",
        "qwen2_5_vl",
        "qwen3_5",
        "qwen3_5_moe",
        "lfm3_vl",
        "paddleocr_vl",
        "cosmos3_edge",
        "minimax_m3_vl",
    )
    modalities: ClassVar[tuple[str, ...]] = ("image", "video")

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        return grids(config, inputs, "image")

    def videos(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        return grids(config, inputs, "video")


def grids(config: Any, inputs: ModelInputs, modality: str) -> list[Picture]:
    """Pictures of grids `[n, 3]` (frames, rows, columns) of patches, some of which are merged."""
    return [merged_grid(config, grid) for grid in inputs.sizes(modality, f"{modality}_grid_thw")]


def merged_grid(config: Any, grid: tuple[int, ...]) -> Picture:
    """The picture of `grid` (frames, rows, columns) patches before some of them are merged."""
    return merged(grid, config.vision_config.spatial_merge_size)


def merged(grid: tuple[int, ...], merge: int) -> Picture:
    """The picture of `grid` (frames, rows, columns) patches, squares of `merge` of which are a token."""
    frames, rows, columns = grid
    return Picture((PictureView.plain(frames, rows // merge, columns // merge),))
