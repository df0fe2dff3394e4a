"""Model Runner V2: the runner stays vLLM's, and what it asks of a model's state follows the plan.

On the first runner a subclass does this (worker.py). The second lets a model bring a `ModelState`. It
hears of each request, and makes the metadata of each step from block tables and slots that it
may write: the layers read them from the same storage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.attention.backends.utils import PAD_SLOT_ID
from vllm.v1.worker.gpu.model_states.default import DefaultModelState

from lightkv.integrations.vllm.cache import SegmentSpec
from lightkv.integrations.vllm.serving import Serving
from lightkv.integrations.vllm.step import Step


class SegmentModelState(DefaultModelState):
    """What the second runner asks, answered for a model whose segments hold fewer tokens."""

    def __init__(self, vllm_config: Any, model: Any, encoder_cache: Any, device: Any) -> None:
        super().__init__(vllm_config, model, encoder_cache, device)
        self.serving: Serving = model.lightkv

    def add_request(self, req_index: int, new_req_data: Any) -> None:
        super().add_request(req_index, new_req_data)
        # A request that was preempted comes again, its generated tokens behind the same prompt.
        self.serving.requests.entry(
            new_req_data.req_id, new_req_data.mm_features, new_req_data.prompt_len
        )

    def remove_request(self, req_id: str) -> None:
        super().remove_request(req_id)
        self.serving.requests.forget([req_id])

    def prepare_attn(
        self,
        input_batch: Any,
        cudagraph_mode: Any,
        block_tables: tuple[torch.Tensor, ...],
        slot_mappings: torch.Tensor,
        attn_groups: Any,
        kv_cache_config: Any,
        for_capture: bool = False,
        **others: Any,
    ) -> dict[str, Any]:
        step = self.serving.steps.current = None if for_capture else self._step(input_batch)
        if step is not None:
            specs = [group.kv_cache_spec for group in kv_cache_config.kv_cache_groups]
            write_slots(step, specs, block_tables, slot_mappings)
        return super().prepare_attn(  # type: ignore[no-any-return]
            input_batch,
            cudagraph_mode,
            block_tables,
            slot_mappings,
            attn_groups,
            kv_cache_config,
            for_capture,
            **others,
        )

    def postprocess_state(self, *args: Any, **kwargs: Any) -> None:
        super().postprocess_state(*args, **kwargs)
        self.serving.steps.current = None

    def _step(self, batch: Any) -> Step | None:
        """The step of a batch, None where no prompt in it holds vision tokens."""
        count = batch.num_reqs
        return self.serving.begin(
            [self.serving.requests.known(name) for name in batch.req_ids[:count]],
            batch.num_computed_tokens_np[:count].tolist(),
            batch.num_scheduled_tokens[:count].tolist(),
        )


def write_slots(
    step: Step,
    specs: Sequence[Any],
    block_tables: Sequence[torch.Tensor],
    slot_mappings: torch.Tensor,
) -> None:
    """Put the slots of each segment's new entries where its layers read them, in place.

    The block tables of this runner live on the device, so the host says which entry of which request
    each row is, in one copy for all segments, and the device looks up its block.

    Args:
        step: the requests.
        specs: of the KV cache groups.
        block_tables: `[≥ R, W]` of each group, the rows in the order of the step.
        slot_mappings: `[groups, ≥ T]`; what is behind the new entries becomes padding.
    """
    of = [
        (number, spec.segment, spec.block_size)
        for number, spec in enumerate(specs)
        if isinstance(spec, SegmentSpec) and spec.segment
    ]
    segments = sorted({segment for _, segment, _ in of})
    if not segments:
        return
    places = [np.stack(step.places(segment)) for segment in segments]
    moved = async_tensor_h2d(np.concatenate(places, axis=1), device=slot_mappings.device)
    parts = dict(zip(segments, moved.split([part.shape[1] for part in places], dim=1), strict=True))
    for number, segment, page in of:
        rows, inside = parts[segment]
        slots = slot_mappings[number]
        blocks = block_tables[number][rows, inside // page]
        slots[: len(rows)] = blocks.to(slots.dtype) * page + inside % page
        slots[len(rows) :].fill_(PAD_SLOT_ID)
