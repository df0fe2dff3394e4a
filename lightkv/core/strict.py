"""Plain data of the user, taken literally: true is no number, nor is a text, and numbers are finite."""

from __future__ import annotations

import types
from collections.abc import Mapping
from numbers import Real
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from lightkv.core.errors import ConfigError, nearest
from lightkv.core.yamls import MOST_DEPTH, MOST_NODES

_PLAIN = {int, float, bool, str, type(None)}
_NUMBERS = {int, float}
_LEAST, _MOST = -(2**63), 2**63 - 1
"""Whole numbers that tensors hold."""

LEAST_SEED, MOST_SEED = _LEAST, 2**64 - 1
Seed = Annotated[int, Field(ge=LEAST_SEED, le=MOST_SEED)]
"""What seeds a generator of torch: 64 bits, with a sign or without."""


class Plain(BaseModel):
    """A model of plain data: unknown keys, and values that only look like the right ones, are errors.

    Lists stand for tuples and NumPy's scalars for Python's; beyond that nothing is converted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _is_literal(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        kinds = _kinds(field.annotation)
        value = python_values(value)
        if not kinds <= _PLAIN:
            return value
        # Bounds stand beside the type of a field, and within that of a tuple.
        seeds = Seed in get_args(field.annotation) or any(
            getattr(bound, "le", None) == MOST_SEED for bound in field.metadata
        )
        return _literal(value, kinds, MOST_SEED if seeds else _MOST)


class Strict(Plain):
    """Plain data whose mistakes are typed errors, also those of a direct call."""

    def __init__(self, /, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise self._refused(error) from error

    @classmethod
    def _refused(cls, error: ValidationError) -> ConfigError:
        """The first of pydantic's errors; that of an unknown key, which may be why one is missing."""
        found = error.errors(include_url=False)
        first = next((each for each in found if each["type"] == "extra_forbidden"), found[0])
        keys = [str(part) for part in first["loc"]]
        remedy = f"its keys are: {', '.join(cls.model_fields)}"
        if first["type"] == "extra_forbidden":
            remedy = nearest(keys[-1], cls.model_fields) + remedy
        return ConfigError(
            message_of(first),
            field=".".join(keys) or None,
            value=None if first["type"] == "missing" else first.get("input"),
            remedy=remedy,
        )


def message_of(error: Mapping[str, Any]) -> str:
    """What one of pydantic's errors says."""
    return str(error["msg"]).removeprefix("Value error, ")


def _kinds(annotation: Any) -> set[Any]:
    """Types of the values that a field holds, at whatever depth; `object` for any."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return {type(part) for part in parts}
    if origin is Annotated:
        return _kinds(parts[0])
    if origin in (Union, types.UnionType):
        return set().union(*map(_kinds, parts))
    if origin is not None and parts:
        # Of a mapping the values only: its keys are texts.
        of_keys = isinstance(origin, type) and issubclass(origin, Mapping)
        inner = parts[-1:] if of_keys else parts
        return set().union(*(_kinds(part) for part in inner if part is not Ellipsis))
    return {annotation} if annotation in _PLAIN else {object}


def python_values(value: Any) -> Any:
    """The same with Python's values for NumPy's scalars, at whatever depth a user's data may have.

    Mappings, lists and tuples are copied; what is nested too deep stays, for others to refuse.
    """
    return _python_values(value, MOST_DEPTH, {})


def _python_values(value: Any, depth: int, done: dict[int, Any]) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, dict | list | tuple) or depth == 0:
        return value
    if id(value) not in done:
        done[id(value)] = value  # of a list within itself
        if isinstance(value, dict):
            pairs = value.items()
            done[id(value)] = {k: _python_values(each, depth - 1, done) for k, each in pairs}
        else:
            parts = [_python_values(each, depth - 1, done) for each in value]
            done[id(value)] = parts if isinstance(value, list) else tuple(parts)
    return done[id(value)]


def _literal(value: Any, kinds: set[Any], most: int) -> Any:
    """The value as it is, or a `ValueError`, which pydantic gathers, where it only looks like one of
    these kinds, or is a whole number above `most`."""
    if isinstance(value, dict):
        return {key: _literal(inner, kinds, most) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_literal(inner, kinds, most) for inner in value]
    wanted = kinds & _NUMBERS
    if isinstance(value, bool):
        if wanted and bool not in kinds:
            raise ValueError("must be a valid number, and a truth value is none")
    elif isinstance(value, str):
        if str not in kinds and wanted:
            raise ValueError("must be a valid number, and a text is none")
        if str not in kinds and bool in kinds:
            raise ValueError("must be true or false, and a text is neither")
    elif isinstance(value, int | float):
        if bool in kinds and not wanted:
            raise ValueError("must be true or false, and a number is neither")
        if isinstance(value, int) and not _LEAST <= value <= most:
            bits = most.bit_length()
            raise ValueError(f"must be a whole number from -2**63 to 2**{bits} - 1")
    return value


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a real number of Python or NumPy, and no truth value."""
    return isinstance(value, Real) and not isinstance(value, bool)


def read_number(text: str) -> float:
    """A number as a user writes it: `0.55` or `55%`.

    Raises:
        ValueError: neither.
    """
    text = text.strip()
    return float(text[:-1]) / 100.0 if text.endswith("%") else float(text)


def is_whole(value: object) -> TypeGuard[int]:
    """Whether it is a whole number of Python or NumPy, and no truth value."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_plain(data: Any, where: str) -> None:
    """Refuse what is nested too deep or too large for a user's data, and keys that are no texts.

    Everything that is done with such data goes down it: copies, comparisons, error messages.

    Raises:
        ConfigError: with `where` as its field.
    """
    level, seen = [data], 0
    for _ in range(MOST_DEPTH):
        below: list[Any] = []
        for each in level:
            if isinstance(each, Mapping):
                _check_keys(each, where)
                below.extend(each.values())
            elif isinstance(each, list | tuple):
                below.extend(each)
            if seen + len(below) > MOST_NODES:
                break
        seen += len(below)
        if not below:
            return
        if seen > MOST_NODES:
            break
        level = below
    raise ConfigError(
        f"nested more than {MOST_DEPTH} deep, or more than {MOST_NODES:,} values",
        field=where,
        value=type(data).__name__,
        remedy="compare with what `Pipeline.to_yaml()` prints",
    )


def _check_keys(mapping: Mapping[Any, Any], where: str) -> None:
    for key in mapping:
        if not isinstance(key, str):
            raise ConfigError(
                "a key is a text",
                field=where,
                value=key,
                remedy="put it in quotes: YAML reads on, off and numbers as values",
            )
