"""What components return, held against the contract of their role.

Kind, shape, dtype and device are known without waiting, so they are checked always. Values are looked at
where that costs no wait for a device, or where somebody asked for it (`Checks`). An error says who
returned what, in which stage, and what is wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from lightkv.core.contracts import Component, Matcher, Merged, Scorer, StageContext
from lightkv.core.errors import ConfigError, NumericError
from lightkv.core.layout import IntArray
from lightkv.core.numerics import check_finite, has_values

Kind = Literal["fractions", "whole numbers", "places"]
"""Floating-point numbers, integers, or integers that torch takes as an index (int64)."""

WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
TARGETS = (
    "for each token the place of the survivor that it flows into, −1 if it is dropped; of a mask of "
    "survivors: torch.where(mask, torch.arange(n, device=mask.device), -1)"
)


@dataclass(frozen=True)
class Checks:
    """Which values are looked at.

    Attributes:
        waits: also those for which the host waits for a device.
        finite: importances that are NaN or infinite stop the run too.
    """

    waits: bool = False
    finite: bool = False

    def looks_at(self, values: torch.Tensor) -> bool:
        """Whether the values of a tensor are looked at."""
        return has_values(values) and (self.waits or values.device.type == "cpu")


@contextmanager
def blamed(
    component: Component, method: str, context: StageContext | None = None
) -> Iterator[None]:
    """An error that leaves the block says whose method was running, in a note below it."""
    try:
        yield
    except Exception as error:
        where = "" if context is None else f", {place_of(context)}"
        error.add_note(f"In {method} of {component.role} {component.name!r}{where}.")
        raise


def place_of(context: StageContext) -> str:
    """Where a stage runs, for people."""
    layer = "" if context.layer is None else f", layer {context.layer}"
    return f"stage {context.stage}{layer}"


def check_returned(
    component: Component,
    method: str,
    value: object,
    *,
    wanted: str,
    shape: Sequence[int | None],
    device: torch.device,
    context: StageContext,
    kind: Kind | None = "fractions",
    remedy: str = "docs/writing-a-strategy.md says what each role returns",
) -> None:
    """Refuse what a component returned if it is no tensor of this shape, dtype and device.

    Args:
        component: who returned it.
        method: from which of its methods.
        value: what it returned.
        wanted: the shape in letters, such as `[G, n]`.
        shape: the same in numbers; None stands for any.
        device: where the stage works.
        context: where the stage runs.
        kind: what the values are; None for any.
        remedy: what would work.

    Raises:
        ConfigError: with the role, the component, the stage, and both shapes.
    """
    who = f"{component.role} {component.name!r} returned"
    numbers = ", ".join("any" if side is None else str(side) for side in shape)
    needed = f"`{method}` returns {wanted} = [{numbers}]"
    found = None
    if not isinstance(value, torch.Tensor):
        found = f"{who} a {type(value).__name__}, and {needed}, a tensor"
    elif len(value.shape) != len(shape) or any(
        side is not None and side != own for side, own in zip(shape, value.shape, strict=True)
    ):
        found = f"{who} shape {list(value.shape)}, and {needed}"
    elif kind is not None and not _is_kind(value, kind):
        found = f"{who} {value.dtype}, and {needed} of {kind}{_dtypes(kind)}"
    elif value.device != device:
        found = f"{who} a tensor on {value.device}, and the stage works on {device}"
        remedy = "make new tensors on the device of the inputs"
    if found is not None:
        raise ConfigError(found, field=place_of(context), remedy=remedy)


def _is_kind(value: torch.Tensor, kind: Kind) -> bool:
    if kind == "fractions":
        return value.is_floating_point()
    return value.dtype == torch.long if kind == "places" else value.dtype in WHOLE


def _dtypes(kind: Kind) -> str:
    return {"fractions": " (such as .float())", "places": " (torch.int64)"}.get(kind, "")


def check_score(
    scorer: Scorer, score: object, tokens: int, device: torch.device, context: StageContext
) -> None:
    """Refuse importances that are not `[V]` fractions.

    Raises:
        ConfigError: as `check_returned`.
    """
    check_returned(
        scorer,
        "score",
        score,
        wanted="[V]",
        shape=(tokens,),
        device=device,
        context=context,
        remedy="return one importance for each vision token of the batch, inputs.vision.numel() of them",
    )


def check_importances(
    scorer: Scorer, score: torch.Tensor, context: StageContext, checks: Checks
) -> None:
    """Refuse importances below 0 and, where asked, NaN and infinity.

    Raises:
        NumericError: with how many there are, and one of them.
    """
    if not checks.looks_at(score):
        return
    if checks.finite:
        check_finite(f"{place_of(context)}, scorer {scorer.name!r}", score)
    below = score.detach() < 0
    if not bool(below.any()):
        return
    raise NumericError(
        f"scorer {scorer.name!r} gave {int(below.sum())} of {score.numel()} tokens an importance "
        "below 0",
        field=f"{place_of(context)}, score",
        value=float(torch.where(below, score.detach(), 0).min()),
        remedy="importances are weights: return values of 0 or more, such as values.clamp(min=0) or "
        "values.exp()",
    )


def check_targets(
    matcher: Matcher,
    target: object,
    shape: tuple[int, int],
    device: torch.device,
    context: StageContext,
) -> None:
    """Refuse targets that are not `[G, n]` places.

    Raises:
        ConfigError: as `check_returned`.
    """
    check_returned(
        matcher,
        "match",
        target,
        wanted="[G, n]",
        shape=shape,
        device=device,
        context=context,
        kind="places",
        remedy=f"return {TARGETS}",
    )


def check_survivors(
    matcher: Matcher,
    target: torch.Tensor,
    keep: int,
    windows: Sequence[int] | IntArray,
    context: StageContext,
    checks: Checks,
) -> None:
    """Refuse targets `[G, n]` of which not `keep` in each window survive, and such that lead nowhere.

    Args:
        matcher: who returned them.
        target: what it returned, for windows whose numbers in the batch are `windows`.
        keep: survivors that each of them must have.
        context: where the stage runs.
        checks: whether the values are looked at.

    Raises:
        ConfigError: with the first window at fault.
    """
    if not target.numel() or not checks.looks_at(target):
        return
    population = target.shape[1]
    kept = (target == torch.arange(population, device=target.device)).sum(dim=1)
    outside = (target < -1) | (target >= population)
    inside = target.clamp(0, population - 1)
    astray = (target >= 0) & (target.gather(1, inside) != inside)
    faults = torch.stack([kept != keep, outside.any(dim=1), astray.any(dim=1)])
    if not bool(faults.any()):
        return
    first = int(faults.flatten().to(torch.uint8).argmax())  # survivors are counted first
    fault, window = divmod(first, faults.shape[1])
    said = target[window].tolist()
    who = f"matcher {matcher.name!r}"
    raise ConfigError(
        _what_is_wrong(who, said, keep, fault),
        field=f"{place_of(context)}, window {windows[window]}, targets",
        value=said,
        remedy=(KEPT, f"return {TARGETS}", STAYS)[fault],
    )


KEPT = (
    "exactly inputs.keep tokens of each window flow into themselves, whatever the values are; kept_only "
    "of lightkv.plugin makes such targets of the places that stay"
)
STAYS = "every token flows into a survivor, which flows into itself, or is dropped (−1)"


def _what_is_wrong(who: str, said: list[int], keep: int, fault: int) -> str:
    """The sentence about a window: too many or too few survivors, a target that is none."""
    population = len(said)
    if fault == 0:
        kept = sum(place == target for place, target in enumerate(said))
        return f"{who} kept {kept} of {population} tokens of a window and must keep {keep}"
    if fault == 1:
        lost = next(each for each in said if not -1 <= each < population)
        return f"{who} sent a token to place {lost} of a window of {population} tokens"
    token = next(n for n, each in enumerate(said) if each >= 0 and said[each] != each)
    return f"{who} sent token {token} of a window to token {said[token]}, which does not survive itself"


def check_counts(
    matcher: Matcher, counts: Sequence[int], keep: int, population: int, context: StageContext
) -> None:
    """Refuse survivors of windows that a dynamic budget may not have.

    Raises:
        ConfigError: with the first number at fault.
    """
    for count in counts:
        if not 0 <= count <= keep:
            raise ConfigError(
                f"matcher {matcher.name!r} counted {count} survivors of a window of {population} "
                f"tokens, of which at most {keep} may stay",
                field=f"{place_of(context)}, count",
                value=count,
                remedy="`count` returns 0 to inputs.keep for each window, such as "
                "wanted.clamp(min=1, max=inputs.keep)",
            )


def check_merged(
    aggregator: Component,
    merged: object,
    shape: tuple[int, int],
    keep: int,
    width: int,
    device: torch.device,
    context: StageContext,
) -> None:
    """Refuse what is no `Merged` of `[G, k, D]` and `[G, n]` fractions.

    Raises:
        ConfigError: as `check_returned`.
    """
    if not isinstance(merged, Merged):
        raise ConfigError(
            f"aggregator {aggregator.name!r} returned a {type(merged).__name__}, and `merge` returns "
            "Merged(tokens, share)",
            field=place_of(context),
            remedy="return Merged(tokens, share), with None for tokens that stay as they are",
        )
    parts: tuple[tuple[str, object, tuple[int, ...]], ...] = (
        ("share [G, n]", merged.share, shape),
        ("tokens [G, k, D]", merged.tokens, (shape[0], keep, width)),
    )
    for wanted, value, sides in parts:
        if value is not None or wanted.startswith("share"):
            check_returned(
                aggregator,
                "merge",
                value,
                wanted=wanted,
                shape=sides,
                device=device,
                context=context,
            )
