"""vLLM's model classes with stages between their decoder layers, under names of their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from vllm.model_executor.models.llava import LlavaForConditionalGeneration

from lightkv.integrations.vllm.serving import Serving


class Compressing:
    """What lightkv adds to a model of vLLM."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self.lightkv = Serving(vllm_config, self.language_model.model)  # type: ignore[attr-defined]

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
        return self.lightkv.forward(inputs_embeds, positions)


class LightKVLlava(Compressing, LlavaForConditionalGeneration):  # type: ignore[misc]
    """LLaVA-1.5."""

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        return super().load_weights(renamed(weights))  # type: ignore[no-any-return]


def renamed(weights: Iterable[tuple[str, torch.Tensor]]) -> Iterable[tuple[str, torch.Tensor]]:
    """Weights of a CLIP tower as transformers 5 saves them, by the names that vLLM knows."""
    old, new = "vision_tower.", "vision_tower.vision_model."
    for name, weight in weights:
        at = name.find(old)
        if at >= 0 and new not in name:
            name = name[:at] + new + name[at + len(old) :]
        yield name, weight
