"""Muse: dynamic grids, and layers of full attention without rotary positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightkv.adapters.families.qwen_vl import merged
from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Picture, Placeholders


class MuseAdapter(HFAdapter):
    """`MuseGlimmerForConditionalGeneration` and `MuseSparkForConditionalGeneration`."""

    name = "muse"
    models = "Muse Glimmer, Muse Spark"
    model_types = ("muse_glimmer", "muse_spark")
    modalities = ("image", "video")

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        return grids(config, inputs, "image")

    def videos(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        return grids(config, inputs, "video")


def grids(config: Any, inputs: ModelInputs, modality: str) -> list[Picture]:
    """Pictures of grids `[n, 3]` (frames, rows, columns) of patches, squares of which are tokens."""
    sizes = inputs.sizes(modality, f"{modality}_grid_thw")
    return [merged(grid, config.vision_config.merge_size) for grid in sizes]
