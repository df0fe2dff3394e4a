"""The modalities that vision tokens may be of, and shares that each of them may have for itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lightkv.core.errors import ConfigError, nearest
from lightkv.core.strict import is_number

MODALITIES = ("image", "video", "audio")
"""What a vision token may show. The word is that of pictures; tokens of sound are treated alike."""

Share = float | dict[str, float]
"""A share for all tokens, or modality → share; see `removed` for those that are not named."""


def removed(ratio: float | Mapping[str, float], modality: str) -> float:
    """The share of a modality's tokens that goes: nothing where modalities are named and it is not."""
    return ratio.get(modality, 0.0) if isinstance(ratio, Mapping) else ratio


def most_removed(ratio: float | Mapping[str, float]) -> float:
    """The largest share that goes of any modality."""
    return max(ratio.values(), default=0.0) if isinstance(ratio, Mapping) else ratio


def named(share: float | Mapping[str, float]) -> tuple[str, ...]:
    """The modalities that have a share for themselves, none where one share is for all."""
    return tuple(share) if isinstance(share, Mapping) else ()


def check_named(share: object, field: str) -> None:
    """Refuse a mapping that names no modality, or one that there is not.

    Raises:
        ConfigError: with the modalities that there are.
    """
    if not isinstance(share, Mapping):
        return
    remedy = f"name one or more of: {', '.join(MODALITIES)}"
    if not share:
        raise ConfigError("no modality is named", field=field, value=share, remedy=remedy)
    for name in share:
        if name not in MODALITIES:
            raise ConfigError(
                "there is no such modality",
                field=field,
                value=name,
                remedy=f"{nearest(str(name), MODALITIES)}{remedy}",
            )


def check_ratio(ratio: object) -> None:
    """Refuse a removed share, or one of a modality, that is not from 0 to below 1.

    Raises:
        ConfigError: with the modality.
    """
    check_named(ratio, "ratio")
    for name, share in ratio.items() if isinstance(ratio, Mapping) else (("", ratio),):
        if not is_number(share) or not 0.0 <= share < 1.0:
            raise ConfigError(
                "the removed share must be at least 0 and below 1",
                field=f"ratio.{name}" if name else "ratio",
                value=share,
                remedy="0.5 removes half of the current vision tokens",
            )


def share_text(share: float | Mapping[str, float], digits: int = 4) -> str:
    """`0.5`, or `{image: 0.5, audio: 0.7}`."""
    if not isinstance(share, Mapping):
        return f"{share:.{digits}g}"
    return "{" + ", ".join(f"{name}: {value:.{digits}g}" for name, value in share.items()) + "}"


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Modalities without repetition, in the order of `MODALITIES`."""
    given = set(names)
    return tuple(name for name in MODALITIES if name in given)
