"""What a search may choose: plain data of a pipeline in which some values are open.

An open value is a mapping that nothing else in a pipeline looks like:

    {any: [keep, barycentric]}                      one of these
    {any: {early: {depths: [0.1, 0.3]}, late: …}}   one of these, by name; they may hold open values
    {from: 0.25, to: 0.5}                           a number between; whole if both ends are
    {from: 1, to: 8, step: 2}, {from: 0.01, to: 1, log: true}

Where an open value stands is its path, such as `matcher=guided.split` or `schedule.depths[0]`: what is
below an option belongs to it, so it is only chosen with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lightkv.core.errors import check_known
from lightkv.core.strict import is_number, is_whole
from lightkv.lab.errors import SearchError
from lightkv.lab.grids.changes import label_text

ANY = "any"
ENDS = ("from", "to")
OF_RANGE = (*ENDS, "step", "log")
DIGITS = 4
"""Significant digits of a fraction that is drawn: what is shown is what was run."""


@dataclass(frozen=True)
class Choice:
    """One of several values.

    Attributes:
        path: where it stands.
        options: label → value, which may hold open values.
    """

    path: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Range:
    """A number between two others.

    Attributes:
        path: where it stands.
        low, high: both included; whole numbers draw whole numbers.
        step: between values from `low` on; None for all.
        log: whether its logarithm is uniform.
    """

    path: str
    low: float
    high: float
    step: float | None = None
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether whole numbers are drawn."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def last(self) -> float:
        """The largest number that steps from `low` on reach."""
        if self.step is None:
            return self.high
        return self.low + int((self.high - self.low) / self.step + 1e-9) * self.step


Open = Choice | Range
Pick = Callable[[Open], Any]
"""Gives the label of an option, or a number."""


def fixed(data: Any, pick: Pick, path: str = "") -> Any:
    """The data with every open value replaced by what `pick` chooses for it, outer ones first."""
    if isinstance(data, list | tuple):
        return [fixed(each, pick, f"{path}[{number}]") for number, each in enumerate(data)]
    if not isinstance(data, Mapping):
        return data
    found = _open(data, path)
    if isinstance(found, Choice):
        label = pick(found)
        return fixed(found.options[label], pick, f"{path}={label}")
    if isinstance(found, Range):
        return pick(found)
    return {key: fixed(value, pick, _below(path, key)) for key, value in data.items()}


def open_values(data: Any, path: str = "") -> Iterator[Open]:
    """All open values, those below every option too, in the order in which they are chosen.

    Raises:
        SearchError: an open value that says nothing sensible.
    """
    if isinstance(data, list | tuple):
        for number, each in enumerate(data):
            yield from open_values(each, f"{path}[{number}]")
    if not isinstance(data, Mapping):
        return
    found = _open(data, path)
    if found is not None:
        yield found
    if isinstance(found, Choice):
        for label, option in found.options.items():
            yield from open_values(option, f"{path}={label}")
    elif found is None:
        for key, value in data.items():
            yield from open_values(value, _below(path, key))


def corners(data: Any, path: str = "") -> Iterator[dict[str, Any]]:
    """Path → choice, so that every option and every end of a range is in one of them at least.

    What they do not name may be anything, such as the first option.
    """
    if isinstance(data, list | tuple):
        for number, each in enumerate(data):
            yield from corners(each, f"{path}[{number}]")
    if not isinstance(data, Mapping):
        return
    found = _open(data, path)
    if isinstance(found, Choice):
        for label, option in found.options.items():
            yield {path: label}
            for inner in corners(option, f"{path}={label}"):
                yield {path: label, **inner}
    elif isinstance(found, Range):
        yield from ({path: found.low}, {path: found.high})
    else:
        for key, value in data.items():
            yield from corners(value, _below(path, key))


def first_of(value: Open) -> Any:
    """The first option, or the lower end."""
    return next(iter(value.options)) if isinstance(value, Choice) else value.low


def text_of(value: Any) -> str:
    """A chosen value as a factor of a cell."""
    return value if isinstance(value, str) else label_text(value)


def rounded(value: float) -> float:
    """A drawn fraction with `DIGITS` significant digits, so that its text says all of it."""
    return float(f"{value:.{DIGITS}g}")


# -- reading --------------------------------------------------------------------------------------


def _below(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _open(data: Mapping[str, Any], path: str) -> Open | None:
    """The open value that a mapping stands for, if it does."""
    if ANY in data:
        for key in data:
            check_known(SearchError, "beside any there is no other key", _where(path), key, [ANY])
        return Choice(path, _options(data[ANY], path))
    if "from" in data or ("to" in data and set(data) <= set(OF_RANGE)):
        return _range(data, path)
    return None


def _options(given: Any, path: str) -> dict[str, Any]:
    if not isinstance(given, Mapping | list | tuple) or not given:
        raise _wrong("any takes a list, or label: value, with at least one option", path, given)
    if isinstance(given, Mapping):
        pairs = [(_label(label), value) for label, value in given.items()]
    else:
        pairs = [(_named(value, path), value) for value in given]
    found = dict(pairs)
    if len(found) < len(pairs):
        labels = [label for label, _ in pairs]
        twice = next(label for label in labels if labels.count(label) > 1)
        raise _wrong(
            "two options have the same label", path, twice, "give them names, as {any: {name: …}}"
        )
    return found


def _named(value: Any, path: str) -> str:
    """What an option in a list is called."""
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return str(value["name"])
    if isinstance(value, Mapping | list | tuple):
        raise _wrong(
            "an option of several values needs a name",
            path,
            value,
            "such as {any: {early: {depths: [0.1]}, late: {depths: [0.5]}}}",
        )
    return _label(value)


def _label(value: Any) -> str:
    return "none" if value is None else label_text(value)


def _range(data: Mapping[str, Any], path: str) -> Range:
    for key in data:
        check_known(SearchError, "a range has no such key", _where(path), key, OF_RANGE)
    low, high = (data.get(end) for end in ENDS)
    step, log = data.get("step"), data.get("log", False)
    if not is_number(low) or not is_number(high) or not low < high:
        raise _wrong("a range goes from a number to a larger one", path, dict(data))
    if not isinstance(log, bool) or (log and (low <= 0 or step is not None)):
        raise _wrong("log is true or false, with ends above 0 and without step", path, dict(data))
    if step is not None and (not is_number(step) or not 0 < step <= high - low):
        raise _wrong("a step is above 0 and fits into its range", path, step)
    if step is not None and is_whole(low) and is_whole(high) and not is_whole(step):
        raise _wrong("a range of whole numbers has a whole step", path, step, "write 1.0 for 1")
    return Range(path, low, high, step, log)


def _where(path: str) -> str:
    return f"space, {path}" if path else "space"


def _wrong(
    message: str, path: str, value: Any, remedy: str = "such as {from: 0.25, to: 0.5}"
) -> SearchError:
    return SearchError(message, field=_where(path), value=value, remedy=remedy)
