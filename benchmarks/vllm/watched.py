"""A look over a scheduler's shoulder: does each request hold the blocks that were counted for it?"""

from __future__ import annotations

from typing import Any

from lightkv.integrations.vllm.cache import SegmentManager


class Watch:
    """What is noted of one scheduler, from now on.

    Attributes:
        steps: scheduled.
        checks: comparisons of the blocks of a request in a group with the counted ones.
        wrong: those that differed.
        preemptions: requests that lost their blocks.
        peak: most requests that ran at once.
    """

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.steps = self.checks = self.preemptions = self.peak = 0
        self.wrong: list[str] = []
        self._schedule, self._preempt = scheduler.schedule, scheduler._preempt_request
        scheduler.schedule, scheduler._preempt_request = self._scheduled, self._preempted

    def _scheduled(self, *args: Any, **kwargs: Any) -> Any:
        output = self._schedule(*args, **kwargs)
        self.steps += 1
        self.peak = max(self.peak, len(self.scheduler.running))
        for request in self.scheduler.running:
            for manager in self.scheduler.kv_cache_manager.coordinator.single_type_managers:
                self._compare(request, manager)
        return output

    def _compare(self, request: Any, manager: Any) -> None:
        held = len(manager.req_to_blocks[request.request_id])
        tokens, entry = request.num_computed_tokens, self._entries.get(request.request_id)
        if entry is not None and isinstance(manager, SegmentManager):
            tokens -= entry.removed[manager.kv_cache_spec.segment]
        counted = -(-tokens // manager.block_size)
        self.checks += 1
        if held != counted:
            self.wrong.append(f"{request.request_id}: {held} blocks, {counted} counted")

    def _preempted(self, *args: Any, **kwargs: Any) -> Any:
        self.preemptions += 1
        return self._preempt(*args, **kwargs)

    @property
    def _entries(self) -> dict[str, Any]:
        return getattr(self.scheduler, "entries", {})

    @property
    def left(self) -> int:
        """Blocks that somebody holds, and entries of requests that are gone."""
        pool = self.scheduler.kv_cache_manager.block_pool
        return pool.num_gpu_blocks - 1 - pool.get_num_free_blocks() + len(self._entries)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "steps": self.steps,
            "checks": self.checks,
            "wrong": self.wrong[:5],
            "preemptions": self.preemptions,
            "peak": self.peak,
            "left": self.left,
        }
