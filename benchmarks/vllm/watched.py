"""A scheduler that compares, at every step, the blocks of each request with those that were counted."""

from __future__ import annotations

from typing import Any

from lightkv.integrations.vllm import scheduler as served
from lightkv.integrations.vllm.cache import SegmentManager

PATH = f"{__name__}.scheduler"


class Watch:
    """What is noted of an engine: one for each scheduler."""

    def __init__(self) -> None:
        self.steps = self.checks = self.preemptions = self.peak = 0
        self.wrong: list[str] = []

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**vars(self), "wrong": self.wrong[:5]}


class _Watching:
    watch: Watch

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        output = super().schedule(*args, **kwargs)  # type: ignore[misc]
        watch = self.watch = getattr(self, "watch", None) or Watch()
        watch.steps += 1
        watch.peak = max(watch.peak, len(self.running))  # type: ignore[attr-defined]
        for request in self.running:  # type: ignore[attr-defined]
            for manager in self.kv_cache_manager.coordinator.single_type_managers:  # type: ignore[attr-defined]
                self._compare(watch, request, manager)
        return output

    def _compare(self, watch: Watch, request: Any, manager: Any) -> None:
        held = len(manager.req_to_blocks[request.request_id])
        tokens, entry = request.num_computed_tokens, self.entries.get(request.request_id)  # type: ignore[attr-defined]
        if entry is not None and isinstance(manager, SegmentManager):
            tokens -= entry.removed[manager.kv_cache_spec.segment]
        counted = -(-tokens // manager.block_size)
        watch.checks += 1
        if held != counted:
            watch.wrong.append(f"{request.request_id}: {held} blocks, {counted} counted")

    def _preempt_request(self, *args: Any, **kwargs: Any) -> Any:
        self.watch.preemptions += 1
        return super()._preempt_request(*args, **kwargs)  # type: ignore[misc]

    @property
    def leaked(self) -> int:
        """Blocks that somebody holds, and entries of requests that are gone."""
        pool = self.kv_cache_manager.block_pool  # type: ignore[attr-defined]
        free = pool.get_num_free_blocks()
        return pool.num_gpu_blocks - 1 - free + len(self.entries)  # type: ignore[attr-defined]


class WatchedScheduler(_Watching, served.CountingScheduler):
    """The scheduler of the integration, watched."""


class WatchedAsyncScheduler(_Watching, served.CountingAsyncScheduler):
    """The same for asynchronous scheduling."""


def scheduler(vllm_config: Any, *args: Any, **kwargs: Any) -> Any:
    """What `scheduler_cls` names."""
    asynchronous = vllm_config.scheduler_config.async_scheduling
    kind = WatchedAsyncScheduler if asynchronous else WatchedScheduler
    return kind(vllm_config, *args, **kwargs)
