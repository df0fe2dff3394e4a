"""The worker: KV caches by segment and, on the first model runner, a runner that follows the plan."""

from __future__ import annotations

from typing import Any

import torch
from vllm.platforms import current_platform

from lightkv.integrations.vllm import contact
from lightkv.integrations.vllm.cache import SegmentSpec
from lightkv.integrations.vllm.configure import check_complete
from lightkv.integrations.vllm.serving import Serving

Base: Any
BaseRunner: Any
if current_platform.is_cpu():
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner as BaseRunner
    from vllm.v1.worker.cpu_worker import CPUWorker as Base
else:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner as BaseRunner
    from vllm.v1.worker.gpu_worker import Worker as Base


class Runner(BaseRunner):  # type: ignore[misc, valid-type]
    """The model runner, which tells the attention of each segment what it holds."""

    @property
    def serving(self) -> Serving:
        """lightkv on this runner's model."""
        return self.get_model().lightkv  # type: ignore[no-any-return]

    def _prepare_inputs(self, scheduler_output: Any, num_scheduled_tokens: Any) -> Any:
        prepared = super()._prepare_inputs(scheduler_output, num_scheduled_tokens)
        serving, batch = self.serving, self.input_batch
        states = [self.requests[name] for name in batch.req_ids]
        serving.begin(
            [
                serving.requests.entry(name, state.mm_features, state.num_prompt_tokens)
                for name, state in zip(batch.req_ids, states, strict=True)
            ],
            batch.num_computed_tokens_cpu[: batch.num_reqs].tolist(),
            num_scheduled_tokens.tolist(),
        )
        return prepared

    def _get_slot_mappings(self, *args: Any, **kwargs: Any) -> Any:
        by_group, by_layer = super()._get_slot_mappings(*args, **kwargs)
        step = self.serving.steps.current if self.model is not None else None
        if step is None or by_group is None:
            return by_group, by_layer
        for number, group in enumerate(self.kv_cache_config.kv_cache_groups):
            spec = group.kv_cache_spec
            if not isinstance(spec, SegmentSpec):
                continue
            table = self.input_batch.block_table[number]
            slots = by_group[number]
            if spec.segment:
                made = step.slots(spec.segment, table.get_numpy_array(), table.block_size)
                # In place: captured graphs read the group's own buffer.
                slots[: len(made)].copy_(torch.from_numpy(made), non_blocking=True)
        return by_group, by_layer

    def execute_model(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        # Not where inputs are prepared: the step behind the last request has none.
        self.serving.requests.forget(scheduler_output.finished_req_ids)
        try:
            return super().execute_model(scheduler_output, *args, **kwargs)
        finally:
            self.serving.steps.current = None


class Worker(Base):  # type: ignore[misc, valid-type]
    """The worker: what `--worker-cls` names."""

    def init_device(self) -> None:
        check_complete(self.vllm_config)
        runner = contact.SECOND_RUNNER if self.use_v2_model_runner else contact.FIRST_RUNNER
        contact.check(contact.WORKER, runner)
        super().init_device()
        if not self.use_v2_model_runner:
            self.model_runner = None
            self.model_runner = Runner(self.vllm_config, self.device)

    def get_kv_cache_spec(self) -> dict[str, Any]:
        serving: Serving = self.model_runner.get_model().lightkv
        return serving.specs(super().get_kv_cache_spec())
