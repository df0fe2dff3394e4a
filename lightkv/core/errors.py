"""Typed errors: each says what was wrong, which field or input, and what would work."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LightKVError(Exception):
    """Base of every error that a user's mistake can cause.

    Args:
        message: what is wrong, one sentence without a final full stop.
        field: the argument, key or input that is wrong.
        value: what was given there.
        remedy: what would work, one sentence without a final full stop.
    """

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        value: object = None,
        remedy: str | None = None,
    ) -> None:
        self.message = message
        self.field = field
        self.value = value
        self.remedy = remedy
        super().__init__(message)

    def __str__(self) -> str:
        head = ""
        if self.field is not None:
            head = f"{self.field}: " if self.value is None else f"{self.field} = {self.value!r}: "
        tail = f". {self.remedy}" if self.remedy else ""
        return f"{head}{self.message}{tail}."


class ConfigError(LightKVError):
    """A parameter, schedule, pipeline file or combination of components that cannot work."""


class UnknownNameError(ConfigError):
    """A component, preset or adapter name that nobody registered."""


class PluginError(LightKVError):
    """A plugin that cannot be imported, clashes in name or registers something unusable."""


class LayoutError(LightKVError):
    """Vision tokens that do not fit the sequence, each other or their grid."""


class ModelError(LightKVError):
    """A model, checkpoint or feature of a model that lightkv cannot work with."""


class SessionError(LightKVError):
    """A session used in a way that would corrupt results (entered twice, cache from elsewhere)."""


class CompatibilityError(LightKVError):
    """A host library (transformers, a serving engine) that does not answer as lightkv knows it."""


class NumericError(LightKVError):
    """NaN or infinite values where a merge would silently be wrong."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`"did you mean 'tome'? "` or nothing; used in the remedy of unknown names."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}? " if close else ""
