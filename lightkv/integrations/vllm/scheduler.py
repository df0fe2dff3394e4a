"""The scheduler: it knows ahead what each segment will hold of a request, and keeps pieces whole."""

from __future__ import annotations

from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from lightkv.core.errors import CompatibilityError
from lightkv.integrations.vllm import contact
from lightkv.integrations.vllm.cache import SegmentManager, SegmentSpec
from lightkv.integrations.vllm.plan import Entry
from lightkv.integrations.vllm.requests import Requests
from lightkv.integrations.vllm.setup import plan_of


class Counting:
    """What lightkv adds to a scheduler of vLLM."""

    def __init__(self, vllm_config: Any, kv_cache_config: Any, *args: Any, **kwargs: Any) -> None:
        contact.check(contact.SCHEDULER)
        super().__init__(vllm_config, kv_cache_config, *args, **kwargs)
        self.plan = plan_of(vllm_config)
        self.entries: dict[str, Entry] = {}
        self._requests = Requests(vllm_config, self.plan)
        _check_plans(self.plan.digest, kv_cache_config)
        for manager in self.kv_cache_manager.coordinator.single_type_managers:  # type: ignore[attr-defined]
            if isinstance(manager, SegmentManager):
                manager.entries = self.entries

    def add_request(self, request: Any) -> None:
        entry = self._requests.look(request.mm_features, request.num_prompt_tokens)
        if entry is not None:
            self.entries[request.request_id] = entry
        super().add_request(request)  # type: ignore[misc]

    def _free_blocks(self, request: Any) -> None:
        super()._free_blocks(request)  # type: ignore[misc]
        self.entries.pop(request.request_id, None)

    def _try_schedule_encoder_inputs(
        self, request: Any, num_computed_tokens: int, num_new_tokens: int, *args: Any, **kwargs: Any
    ) -> Any:
        """Leave a request for a later step that could compute a part of its piece only."""
        entry = self.entries.get(request.request_id)
        end = num_computed_tokens + num_new_tokens
        if entry is not None and num_computed_tokens < entry.piece and end < entry.piece:
            num_new_tokens = 0
        return super()._try_schedule_encoder_inputs(  # type: ignore[misc]
            request, num_computed_tokens, num_new_tokens, *args, **kwargs
        )


class CountingScheduler(Counting, Scheduler):
    """vLLM's scheduler, counting by segments."""


class CountingAsyncScheduler(Counting, AsyncScheduler):
    """The same for asynchronous scheduling."""


def scheduler(vllm_config: Any, *args: Any, **kwargs: Any) -> Scheduler:
    """The scheduler of an engine: what `--scheduler-cls` names."""
    asynchronous = vllm_config.scheduler_config.async_scheduling
    kind = CountingAsyncScheduler if asynchronous else CountingScheduler
    return kind(vllm_config, *args, **kwargs)


def _check_plans(digest: str, kv_cache_config: Any) -> None:
    """Refuse to schedule for workers that count otherwise."""
    specs = [group.kv_cache_spec for group in kv_cache_config.kv_cache_groups]
    theirs = {spec.plan for spec in specs if isinstance(spec, SegmentSpec)}
    if theirs - {digest}:
        raise CompatibilityError(
            "scheduler and workers made different plans of the same options",
            field="additional_config",
            value=sorted(theirs),
            remedy="install the same version of lightkv, with the same plugins, on all machines",
        )
