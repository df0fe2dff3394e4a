"""Times of a session: scoring, matching, aggregation, first token, decoding."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from lightkv.core.run.report import RunReport


def now() -> float:
    """Seconds, after all queued work of a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Profiler(threading.local):
    """Collects times while `enabled`; costs nothing otherwise.

    Each thread has clocks of its own: one may encode pictures while another is inside a pass.
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.roles: dict[str, float] = {}
        self._start: float | None = None
        self._step: float | None = None

    @contextmanager
    def timer(self, role: str) -> Iterator[None]:
        """Add the time of the block to a role."""
        if not self.enabled:
            yield
            return
        start = now()
        yield
        self.roles[role] = self.roles.get(role, 0.0) + now() - start

    def start(self) -> None:
        """The request begins (vision tower or decoder, whichever comes first)."""
        if self.enabled and self._start is None:
            self._start = now()

    def discard(self) -> None:
        """The pass failed: forget what was timed."""
        self._start = self._step = None
        self.roles = {}

    def close(self, report: RunReport) -> None:
        """The prefill is done: hand the times to its report."""
        if self.enabled and self._start is not None:
            report.time_to_first_token = now() - self._start
            report.role_times = dict(self.roles)
        self._start = None
        self.roles = {}

    def step_begin(self) -> None:
        """A decode step begins, so what `start` marked was no request."""
        self._start = None
        if self.enabled:
            self._step = now()

    def step_end(self, report: RunReport | None, tokens: int) -> None:
        """A decode step is done."""
        if report is not None:
            report.decode_steps += tokens
            if self.enabled and self._step is not None:
                report.decode_time += now() - self._step
        self._step = None
