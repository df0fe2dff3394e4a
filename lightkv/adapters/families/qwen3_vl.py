"""Qwen3-VL and what is built like it: Qwen2.5-VL with features of inner tower layers.

They are added after the first decoder layers, at the vision positions of the full sequence, so nothing
is compressed before the last of them. The frames of a video stand apart, with timestamps between them;
they are one view all the same.
"""

from __future__ import annotations

from typing import ClassVar

from lightkv.adapters.families.qwen_vl import QwenVLAdapter


class Qwen3VLAdapter(QwenVLAdapter):
    """`Qwen3VLForConditionalGeneration`, its variant with experts, Cosmos 3 Omni, Cohere Compass."""

    name = "qwen3_vl"
    models = "Qwen3-VL, Qwen3-VL-MoE, Cosmos 3 Omni, Cohere Compass"
    model_types: ClassVar[tuple[str, ...]] = (
        "qwen3_vl",
        "qwen3_vl_moe",
        "cosmos3_omni",
        "cohere_compass",
    )
