"""Typed errors of the lab."""

from __future__ import annotations

from lightkv.core.errors import ConfigError, LightKVError


class StoreError(LightKVError):
    """A results file that cannot be read, written or taken up again."""


class TaskError(ConfigError):
    """Data of a task that cannot be used: a broken line, a missing or unreadable picture."""


class GridError(ConfigError):
    """A grid that says something impossible."""


class RunError(LightKVError):
    """A run that had to stop; what was finished is kept."""


class NotShownError(LightKVError):
    """No retention of a range could be shown to lose less than the threshold."""


class SearchError(ConfigError):
    """A search study that says something impossible, or a search that cannot do what is asked."""
