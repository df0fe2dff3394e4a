"""What a model that compresses holds: its plan, the pipeline on its decoder, the step that runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from vllm.config import CUDAGraphMode
from vllm.forward_context import get_forward_context

from lightkv.adapters.hf.shapes import decoder_shape
from lightkv.core.run.engine import Engine
from lightkv.integrations.vllm.attention import Steps, segment_backend
from lightkv.integrations.vllm.cache import SegmentSpec
from lightkv.integrations.vllm.decoder import Pass, attention_of, decoded
from lightkv.integrations.vllm.heads import head_group
from lightkv.integrations.vllm.plan import Entry
from lightkv.integrations.vllm.requests import Requests
from lightkv.integrations.vllm.setup import plan_of
from lightkv.integrations.vllm.step import Row, Step

PLANS = 1024
"""Plans of stages that are kept, one for each number of tokens that a prompt has, and of equal prompts
in a step: 20 kB each for 576 vision tokens."""


class Serving:
    """lightkv on one model of an engine.

    Args:
        vllm_config: the engine's.
        decoder: the module with `layers` and `norm`.
    """

    def __init__(self, vllm_config: Any, decoder: nn.Module) -> None:
        self.plan = plan_of(vllm_config)
        self.requests = Requests(vllm_config.model_config.hf_config, self.plan)
        self.steps = Steps()
        self.decoder: Any = decoder
        self.layers: dict[str, int] = {}
        shape = decoder_shape(vllm_config.model_config.hf_text_config)
        self.engine = Engine(self.plan.pipeline, shape, heads=head_group(), plans=PLANS)
        if self.plan.cuts:
            self._attach()

    def _attach(self) -> None:
        """Give each attention layer the backend of its segment."""
        backends: dict[Any, Any] = {}
        for index, layer in enumerate(self.decoder.layers):
            attention = attention_of(layer)
            underlying = attention.attn_backend
            if underlying not in backends:
                backends[underlying] = segment_backend(underlying, self.steps)
            attention.attn_backend = backends[underlying]
            self.layers[attention.layer_name] = self.plan.segment(index)

    def specs(self, specs: dict[str, Any]) -> dict[str, Any]:
        """KV cache specs of all layers, those of the decoder as segments.

        Raises:
            ModelError: a layer whose cache is not that of plain full attention.
        """
        return {
            name: SegmentSpec.of(spec, self.layers[name], self.plan.digest)
            if name in self.layers
            else spec
            for name, spec in specs.items()
        }

    def begin(
        self, entries: Sequence[Entry | None], computed: Sequence[int], counts: Sequence[int]
    ) -> Step | None:
        """Begin a step: None, and nothing to follow, where no prompt in it holds vision tokens.

        Args:
            entries: of the requests of the batch, in its order.
            computed: tokens of each computed before.
            counts: tokens of each in this step.
        """
        self.steps.current = None
        if any(entry is not None for entry in entries):
            rows = [Row(*row) for row in zip(computed, counts, entries, strict=True)]
            self.steps.current = Step(rows, self.plan.segments)
        return self.steps.current

    @property
    def compresses(self) -> bool:
        """Whether the step that runs compresses."""
        step = self.steps.current
        return step is not None and bool(step.compressing)

    def forward(
        self,
        hidden_states: torch.Tensor,
        positions: torch.Tensor,
        deep: Sequence[torch.Tensor] = (),
    ) -> torch.Tensor:
        """The decoder for the step that runs: `[T, D]` → `[T, D]`.

        Args:
            hidden_states: what enters the first layer, padding at the end.
            positions: `[T]`, or `[A, T]` where there are several rotary axes.
            deep: `[T, D]` what is added behind each of the first layers.
        """
        step = self.steps.current
        assert step is not None
        total, rows = step.total, len(hidden_states)
        self._uncaptured(step)
        run = Pass(
            self.plan,
            self.engine,
            step,
            hidden_states[:total],
            positions[..., :total],
            [added[:total] for added in deep],
        )
        return decoded(run, self.decoder, rows)

    def _uncaptured(self, step: Step) -> None:
        """Let the layers of this step run as they are, each with the slots of its own rows.

        Shapes are those of the step's survivors: no graph was captured for them, nothing compiled.
        """
        context: Any = get_forward_context()
        context.skip_compiled = True
        context.cudagraph_runtime_mode = CUDAGraphMode.NONE
        for name, segment in self.layers.items():
            slots = context.slot_mapping[name]
            context.slot_mapping[name] = slots[: int(step.new(segment).sum())]
