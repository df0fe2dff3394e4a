"""Typed errors: each says what was wrong, which field or input, and what would work."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


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
            head = (
                f"{self.field}: " if self.value is None else f"{self.field} = {short(self.value)}: "
            )
        tail = f". {self.remedy}" if self.remedy else ""
        return f"{head}{self.message}{tail}."


class LightKVWarning(UserWarning):
    """What works otherwise than was asked for."""


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


@contextmanager
def file_errors(
    kind: type[LightKVError],
    doing: str,
    field: str,
    path: object,
    remedy: str | None = None,
    errors: type[Exception] | tuple[type[Exception], ...] = OSError,
) -> Iterator[None]:
    """Errors of the system about a file as an error that says `cannot write the page (…)`.

    Args:
        kind: of the error raised.
        doing: what fails, as "write the page".
        field: what the user gave the path as.
        path: of the file.
        remedy: what would work.
        errors: that are caught.
    """
    try:
        yield
    except errors as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise kind(
            f"cannot {doing} ({reason[:300]})", field=field, value=str(path), remedy=remedy
        ) from error


def first_of(error: BaseException) -> BaseException:
    """The error that an error began with: below all that it was raised from, or while it was handled."""
    while True:
        hidden = error.__suppress_context__
        below = error.__cause__ or (None if hidden else error.__context__)
        if below is None:
            return error
        error = below


def nearest(name: str, known: Iterable[str]) -> str:
    """`"did you mean 'tome'? "` or nothing, in capitals or not; for the remedy of unknown names."""
    if len(name) > LONGEST_NAME:
        return ""
    written = {each.casefold(): each for each in known}
    close = difflib.get_close_matches(name.casefold(), list(written), n=1, cutoff=0.5)
    return f"Did you mean {written[close[0]]!r}? " if close else ""


def check_known(
    kind: type[LightKVError], message: str, field: str, name: str, known: Iterable[str]
) -> None:
    """Refuse a name that is not among the known ones; the error lists them, the nearest first."""
    there = list(known)
    if name not in there:
        remedy = f"{nearest(str(name), there)}There are: {', '.join(there) or 'none'}"
        raise kind(message, field=field, value=name, remedy=remedy)


def check_least(field: str, value: int | None, least: int = 1) -> None:
    """Refuse a number that is too small; None is not given, and so no error."""
    if value is not None and value < least:
        raise ConfigError(f"must be at least {least}", field=field, value=value)


LONGEST_NAME = 100
"""Characters of a name that may be a slip of another."""


class _Short(reprlib.Repr):
    """`repr`, cut where it grows long or deep."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 5
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = 12
        self.maxstring = self.maxother = 300
        self.maxlong = 60

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        """As `repr` has it, in the mapping's own order."""
        if x and level <= 0:
            return "{...}"
        parts = [
            f"{self.repr1(key, level - 1)}: {self.repr1(value, level - 1)}"
            for key, value in list(x.items())[: self.maxdict]
        ]
        return "{" + ", ".join(parts + ["..."] * (len(x) > self.maxdict)) + "}"

    def repr_int(self, x: int, level: int) -> str:
        """Python prints no number of more than 4,300 digits."""
        bits = x.bit_length()
        return f"<a number of {bits} bits>" if bits > 10_000 else super().repr_int(x, level)


def short(value: object) -> str:
    """A value as an error prints it: what the user wrote, of a length that fits a line or two."""
    return _Short().repr(value)
