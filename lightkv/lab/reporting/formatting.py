"""Figures and settings as text."""

from __future__ import annotations

from collections.abc import Sequence

from lightkv.lab.stats import Estimate


def figure_text(value: float, *, share: bool, signed: bool = False) -> str:
    """`0.931` → `93.1` where scores are shares; log-probabilities as they are. True minus sign;
    ∞ where nobody knows how much can be lost."""
    sign = "+" if signed else ""
    text = f"{100.0 * value:{sign}.1f}" if share else f"{value:{sign}.3f}"
    if not float(text):
        return text.lstrip("+-")
    return text.replace("-", "−").replace("inf", "∞")


def interval_text(share: bool, point: Estimate, *, signed: bool = False) -> str:
    """`93.1 [92.0, 94.2]`."""
    value, low, high = (
        figure_text(each, share=share, signed=signed)
        for each in (point.value, point.low, point.high)
    )
    return f"{value} [{low}, {high}]"


def unit_of(share: bool) -> str:
    """Of a difference in score."""
    return "points" if share else "in log-likelihood"


def setting_text(setting: dict[str, str]) -> str:
    """What a setting is, in few words: the labels of its axes."""
    return " / ".join(setting.values()) or "default"


def axes_text(settings: Sequence[dict[str, str]]) -> str:
    """The axes that `setting_text` gives labels of; empty if settings differ in their axes."""
    found = {" / ".join(setting) for setting in settings}
    return found.pop() if len(found) == 1 else ""


def full_text(setting: dict[str, str]) -> str:
    """What a setting is, with its axes; a cell that the grid names has its name."""
    if "cell" in setting:
        return setting["cell"]
    return ", ".join(f"{axis} {label}" for axis, label in setting.items()) or "default"


def short(text: str, most: int) -> str:
    """The text, cut to so many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def bytes_text(count: float) -> str:
    """Bytes with a binary unit, three digits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"
