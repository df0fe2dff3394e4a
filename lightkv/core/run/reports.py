"""What a session keeps of its runs: the latest reports, their number, and one warning of a gap."""

from __future__ import annotations

import sys
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Literal, overload

import torch

from lightkv.core.errors import ConfigError, LightKVWarning
from lightkv.core.run.report import RunReport
from lightkv.core.strict import is_whole

KEPT, TRACED = 100, 10
"""Reports kept by a session that is not told how many, and by one whose reports hold tensors."""

Keep = int | Literal["all"] | None


class Reports(Sequence[RunReport]):
    """The latest reports, oldest first.

    Attributes:
        total: how many there were.

    Args:
        keep: so many of them, `"all"` without bound; by default `KEPT`, with `trace` `TRACED`.
        trace: whether reports hold assignments and scores.
        gap_warning: warn once if a run's retention is more than 5 points from the one asked for.

    Raises:
        ConfigError: not a number of reports.
    """

    def __init__(
        self, keep: Keep = None, *, trace: bool = False, gap_warning: bool = False
    ) -> None:
        self._latest: deque[RunReport] = deque(maxlen=_bound(keep, trace))
        self.total = 0
        self.gap_warning = gap_warning

    def __len__(self) -> int:
        return len(self._latest)

    @overload
    def __getitem__(self, index: int) -> RunReport: ...
    @overload
    def __getitem__(self, index: slice) -> list[RunReport]: ...
    def __getitem__(self, index: int | slice) -> RunReport | list[RunReport]:
        return self._latest[index] if isinstance(index, int) else list(self._latest)[index]

    def __iter__(self) -> Iterator[RunReport]:
        return iter(tuple(self._latest))  # another thread may add one meanwhile

    def add(self, report: RunReport) -> None:
        """Take the report of a run that has ended."""
        self._latest.append(report)
        self.total += 1
        if self.gap_warning and (gap := report.gap) is not None:
            self.gap_warning = False  # the next thumbnail needs no second one
            warnings.warn(f"{report.strategy}: {gap}", LightKVWarning, stacklevel=_callers())


def _callers() -> int:
    """Level, for a warning of the caller, of the outermost call of a module: whoever ran the model."""
    frame: FrameType | None = sys._getframe(1)
    level, found = 1, 3
    while frame is not None:
        if frame.f_globals.get("__name__") == torch.nn.Module.__module__:
            found = level + 1
        frame, level = frame.f_back, level + 1
    return found


def _bound(keep: Keep, trace: bool) -> int | None:
    if keep is None:
        return TRACED if trace else KEPT
    if isinstance(keep, str) and keep == "all":
        return None
    if not is_whole(keep) or not 1 <= keep < 2**31:
        raise ConfigError(
            "a session keeps its latest reports, at least one",
            field="keep_reports",
            value=keep,
            remedy=f"use a whole number from 1 on (by default {KEPT}), or 'all'",
        )
    return int(keep)
