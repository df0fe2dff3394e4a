"""The `windows` of a stage as a schedule writes it: what it may be, and what it says."""

from __future__ import annotations

from lightkv.core.contracts import WindowSpec
from lightkv.core.strict import is_whole

MOST_WINDOWS = 65_536
"""Windows per side: more than any grid has rows or columns, or any cache entries."""


def wrong_windows(windows: object) -> str | None:
    """What is wrong with a `windows` entry, None if nothing is."""
    sides = windows.values() if isinstance(windows, dict) else [1 if windows is None else windows]
    if not all(is_whole(side) and 1 <= side <= MOST_WINDOWS for side in sides):
        return f"windows per side must be whole numbers from 1 to {MOST_WINDOWS:,}"
    return None


def window_sides(windows: WindowSpec) -> tuple[int, int]:
    """Windows per side over space and over time, 0 where that is not said."""
    if isinstance(windows, dict):
        return windows.get("space", 1), windows.get("time", 0)
    return windows or 0, 0
