"""vLLM's model classes with stages between their decoder layers, under names of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from vllm.model_executor.models.interns1 import (
    InternS1DummyInputsBuilder,
    InternS1ForConditionalGeneration,
    InternS1ProcessingInfo,
)
from vllm.model_executor.models.llava import (
    LlavaDummyInputsBuilder,
    LlavaForConditionalGeneration,
    LlavaProcessingInfo,
)
from vllm.model_executor.models.llava_next import (
    LlavaNextForConditionalGeneration,
    LlavaNextProcessingInfo,
)
from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VLDummyInputsBuilder,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessingInfo,
)
from vllm.model_executor.models.qwen2_vl import (
    Qwen2VLDummyInputsBuilder,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessingInfo,
)
from vllm.model_executor.models.qwen3_vl import (
    Qwen3VLDummyInputsBuilder,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessingInfo,
)
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY

from lightkv.integrations.vllm.configure import check_complete
from lightkv.integrations.vllm.families import CLIP_RENAMES, family_of
from lightkv.integrations.vllm.processors import (
    InternVLProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    Qwen2VLProcessor,
    Qwen3VLProcessor,
    Qwen25VLProcessor,
)
from lightkv.integrations.vllm.serving import Serving


class Compressing:
    """What lightkv adds to a model of vLLM."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        check_complete(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        family = family_of(vllm_config.model_config.hf_config)
        decoder = self.get_submodule(family.decoder)  # type: ignore[attr-defined]
        self.lightkv = Serving(vllm_config, decoder)

    @staticmethod
    def get_model_state_cls() -> type[Any]:
        """What the second model runner works with; the first never asks."""
        from lightkv.integrations.vllm.model_state import SegmentModelState

        return SegmentModelState

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        **others: Any,
    ) -> Any:
        if not self.lightkv.compresses:
            return super().forward(  # type: ignore[misc]
                input_ids, positions, intermediate_tensors, inputs_embeds, **others
            )
        if inputs_embeds is None:
            inputs_embeds = self.embed_input_ids(input_ids)  # type: ignore[attr-defined]
        return self.decode(inputs_embeds, positions)

    def decode(self, inputs_embeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """The decoder of a step that compresses, `[T, D]` → `[T, D]`."""
        return self.lightkv.forward(inputs_embeds, positions)


def renamed(model: Any, names: dict[str, str]) -> WeightsMapper:
    """The names of a vLLM model's weights, after those of a checkpoint that it does not know."""
    patterns = {re.compile(old): new for old, new in names.items()}
    return model.hf_to_vllm_mapper | WeightsMapper(orig_to_new_regex=patterns)


@MULTIMODAL_REGISTRY.register_processor(
    LlavaProcessor, info=LlavaProcessingInfo, dummy_inputs=LlavaDummyInputsBuilder
)
class LightKVLlava(Compressing, LlavaForConditionalGeneration):  # type: ignore[misc]
    """LLaVA-1.5."""

    hf_to_vllm_mapper = renamed(LlavaForConditionalGeneration, CLIP_RENAMES)


@MULTIMODAL_REGISTRY.register_processor(
    LlavaNextProcessor, info=LlavaNextProcessingInfo, dummy_inputs=LlavaDummyInputsBuilder
)
class LightKVLlavaNext(Compressing, LlavaNextForConditionalGeneration):  # type: ignore[misc]
    """LLaVA-NeXT (v1.6)."""

    hf_to_vllm_mapper = renamed(LlavaNextForConditionalGeneration, CLIP_RENAMES)


@MULTIMODAL_REGISTRY.register_processor(
    Qwen2VLProcessor, info=Qwen2VLProcessingInfo, dummy_inputs=Qwen2VLDummyInputsBuilder
)
class LightKVQwen2VL(Compressing, Qwen2VLForConditionalGeneration):  # type: ignore[misc]
    """Qwen2-VL: each survivor keeps its positions on all three rotary axes."""


@MULTIMODAL_REGISTRY.register_processor(
    Qwen25VLProcessor, info=Qwen2_5_VLProcessingInfo, dummy_inputs=Qwen2_5_VLDummyInputsBuilder
)
class LightKVQwen25VL(Compressing, Qwen2_5_VLForConditionalGeneration):  # type: ignore[misc]
    """Qwen2.5-VL."""


@MULTIMODAL_REGISTRY.register_processor(
    Qwen3VLProcessor, info=Qwen3VLProcessingInfo, dummy_inputs=Qwen3VLDummyInputsBuilder
)
class LightKVQwen3VL(Compressing, Qwen3VLForConditionalGeneration):  # type: ignore[misc]
    """Qwen3-VL: features of inner encoder layers are added behind the first decoder layers."""

    def decode(self, inputs_embeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        rows = len(inputs_embeds)
        try:
            return self.lightkv.forward(inputs_embeds, positions, self._deep(rows))
        finally:
            self._clear_deepstack_input_embeds(rows)

    def _deep(self, rows: int) -> Sequence[torch.Tensor]:
        found = self._get_deepstack_input_embeds(rows)
        return () if found is None else list(found.tensors.values())


@MULTIMODAL_REGISTRY.register_processor(
    InternVLProcessor, info=InternS1ProcessingInfo, dummy_inputs=InternS1DummyInputsBuilder
)
class LightKVInternVL(Compressing, InternS1ForConditionalGeneration):  # type: ignore[misc]
    """InternVL, in the checkpoints of transformers."""
