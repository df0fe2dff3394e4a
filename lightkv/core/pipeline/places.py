"""Where a decoder lets stages act: behind which of its layers, and whose attention can be read there."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lightkv.core.errors import ConfigError
from lightkv.core.needs import Needs, Source, listed, needs_from


@dataclass(frozen=True)
class Places:
    """The places of a decoder at which a stage may remove tokens.

    A place is the number of layers that run before the stage (`after_layer`). Layers are counted from 0,
    so a stage at place λ stands behind layer λ − 1 and before layer λ.

    Attributes:
        first: the smallest place; earlier layers need every vision token.
        last: the largest place; None where there is no bound.
        unread: layer → why its attention cannot be read, as a phrase that continues "layer 3 …", such
            as "is recurrent". Only components that need the attention of such a layer are kept away.
        why_first: why nothing is removed before `first`, as a sentence without a full stop.
        why_last: why nothing is removed behind `last`, likewise.
    """

    first: int = 0
    last: int | None = None
    unread: Mapping[int, str] = field(default_factory=dict, hash=False)
    why_first: str = ""
    why_last: str = ""

    def least(self, first: int) -> Places:
        """These places, none before `first`."""
        return replace(self, first=first) if first > self.first else self

    def allowed(self, num_layers: int, needs: Needs = frozenset()) -> tuple[int, ...]:
        """The places at which components with these needs may act, in a decoder of `num_layers`."""
        return tuple(
            place for place in range(num_layers) if self.refusal(place, num_layers, needs) is None
        )

    def refusal(self, place: int, num_layers: int, needs: Needs = frozenset()) -> str | None:
        """Why components with these needs cannot act at a place; None where they can."""
        if place >= num_layers:
            return f"the decoder has {num_layers} layers, so nothing is left to compress"
        if place < self.first:
            return self.why_first or (
                f"the first {self.first} layers of this model need every vision token"
            )
        if self.last is not None and place > self.last:
            return self.why_last or (
                f"the layers behind layer {self.last - 1} of this model need what earlier ones cached"
            )
        if place == 0 and (asked := needs_from(needs, Source.ATTENTION)):
            return f"the stage needs {listed(asked)} of the layer before it, and there is none"
        for layer, source in ((place - 1, Source.ATTENTION), (place, Source.NEXT_LAYER)):
            asked = needs_from(needs, source)
            if asked and layer in self.unread:
                return (
                    f"the stage needs {listed(asked)} of layer {layer}, and layer {layer} "
                    f"{self.unread[layer]}"
                )
        return None

    def check(self, place: int, num_layers: int, needs: Needs, field: str) -> None:
        """Refuse a stage at a place where components with these needs cannot act.

        Args:
            place: layers that run before the stage.
            num_layers: of the decoder.
            needs: of the stage's components.
            field: what the error calls the place.

        Raises:
            ConfigError: naming the layer, the reason and the nearest place that works.
        """
        problem = self.refusal(place, num_layers, needs)
        if problem is None:
            return
        remedy = _remedy(place, self.allowed(num_layers, needs))
        raise ConfigError(problem, field=field, value=place, remedy=remedy)


def nearest_place(place: float, allowed: Sequence[int]) -> int:
    """Of the allowed places the nearest, the later of two that are equally near."""
    return min(allowed, key=lambda each: (abs(each - place), -each))


def _remedy(place: int, allowed: Sequence[int]) -> str:
    if not allowed:
        return "no layer of this model works for these components; use some that read no attention"
    best = nearest_place(place, allowed)
    return f"use {listed_places(allowed)}" + (
        f"; the nearest is {best}" if len(allowed) > 1 else ""
    )


def listed_places(places: Sequence[int]) -> str:
    """Increasing places as errors print them: `4, 8, 12`, or `3 … 7` for those without gaps."""
    runs = itertools.groupby(enumerate(places), key=lambda each: each[1] - each[0])
    found = []
    for _, run in runs:
        several = [place for _, place in run]
        short = len(several) < 3
        found.append(", ".join(map(str, several)) if short else f"{several[0]} … {several[-1]}")
    return ", ".join(found)
