"""vLLM's multimodal processors, whose results are checked in the process that a request comes to.

A processor exists in the engine's other processes too, where only inputs that vLLM made up go through
it. Those are never checked and never counted.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from vllm.model_executor.models.interns1 import (
    InternS1MultiModalProcessor,
    InternS1ProcessingInfo,
)
from vllm.model_executor.models.llava import LlavaMultiModalProcessor
from vllm.model_executor.models.llava_next import LlavaNextMultiModalProcessor
from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLMultiModalProcessor
from vllm.model_executor.models.qwen2_vl import Qwen2VLMultiModalProcessor
from vllm.model_executor.models.qwen3_vl import Qwen3VLMultiModalProcessor
from vllm.multimodal.processing.inputs import ProcessorInputs

from lightkv.integrations.vllm.front import front_of


@dataclass
class MadeUp(ProcessorInputs):
    """Inputs that vLLM measures memory and warms up with."""


class Checked:
    """What lightkv adds to a processor of vLLM."""

    def __init__(self, info: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(info, *args, **kwargs)
        self.front = front_of(info.ctx.model_config)

    def get_dummy_inputs(self, *args: Any, **kwargs: Any) -> MadeUp:
        made: Any = super().get_dummy_inputs(*args, **kwargs)  # type: ignore[misc]
        return MadeUp(**{field.name: getattr(made, field.name) for field in fields(made)})

    def apply(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        made = super().apply(inputs, *args, **kwargs)  # type: ignore[misc]
        if self.front is not None and not isinstance(inputs, MadeUp):
            self.front.look(made, inputs.cache)
        return made


class LlavaProcessor(Checked, LlavaMultiModalProcessor):  # type: ignore[misc]
    """LLaVA-1.5."""


class LlavaNextProcessor(Checked, LlavaNextMultiModalProcessor):  # type: ignore[misc]
    """LLaVA-NeXT."""


class Qwen2VLProcessor(Checked, Qwen2VLMultiModalProcessor):  # type: ignore[misc]
    """Qwen2-VL."""


class Qwen25VLProcessor(Checked, Qwen2_5_VLMultiModalProcessor):  # type: ignore[misc]
    """Qwen2.5-VL."""


class Qwen3VLProcessor(Checked, Qwen3VLMultiModalProcessor):  # type: ignore[misc]
    """Qwen3-VL."""


class InternVLProcessor(Checked, InternS1MultiModalProcessor):  # type: ignore[misc]
    """InternVL."""


class InternVLInfo(InternS1ProcessingInfo):  # type: ignore[misc]
    """InternVL without videos: how their frames lie is not mapped, so vLLM itself refuses them."""

    def get_supported_mm_limits(self) -> dict[str, int | None]:
        return {"image": None}
