"""Which layers and ratios give a wanted retention: a small search, known on the host."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from lightkv.core.errors import ConfigError, LightKVError
from lightkv.core.modality import check_named
from lightkv.core.strict import is_number

TOLERANCE = 0.005 + 1e-9
"""Half a point: how far a solved schedule may be from the wanted retention."""

Surcharge = Callable[[Sequence[int], Sequence[float]], float]
"""What a host charges for stages after these layers that remove these shares, 0 or more.

It is counted in layers that hold an uncompressed prompt, so that it can be weighed against the closeness
to the published spacing; infinity rules a choice out.
"""


def check_retention(retention: object) -> None:
    """Refuse what is no share of the KV cache, for all tokens or for those of named modalities."""
    check_named(retention, "retention")
    if isinstance(retention, Mapping):
        for name, share in retention.items():
            check_one_share(share, f"retention.{name}")
    else:
        check_one_share(retention, "retention")


def check_one_share(retention: object, field: str, kind: type[LightKVError] = ConfigError) -> None:
    """Refuse what is no share of the KV cache for all tokens, with an error of the given kind."""
    if not is_number(retention) or not 0.0 < retention <= 1.0:
        raise kind(
            "retention is a share of the vision KV cache",
            field=field,
            value=retention,
            remedy="use a number above 0 and at most 1, such as 0.55 for 55 %",
        )


def check_solver_arguments(windows: object, ratio: object) -> None:
    if not isinstance(windows, list | tuple):
        raise ConfigError(
            "the solver needs one entry for each stage",
            field="windows",
            value=windows,
            remedy="give a list, such as [4, 2, 1]",
        )
    if not is_number(ratio) or not 0.0 < ratio < 1.0:
        raise ConfigError(
            "the removed share of a stage must be above 0 and below 1",
            field="ratio",
            value=ratio,
            remedy="0.5 removes half of the current vision tokens",
        )


def check_depths(depths: Sequence[float], ratios: Sequence[float]) -> None:
    within = all(is_number(depth) and 0.0 <= depth < 1.0 for depth in depths)
    if not depths or not within or not all(a < b for a, b in itertools.pairwise(depths)):
        raise ConfigError(
            "depths are increasing shares of the layers, from 0 to below 1",
            field="depths",
            value=tuple(depths),
            remedy="such as [0.25, 0.5, 0.75]",
        )
    if len(ratios) != len(depths) or not all(
        is_number(ratio) and 0.0 < ratio < 1.0 for ratio in ratios
    ):
        raise ConfigError(
            f"{len(depths)} stages need as many removed shares between 0 and 1",
            field="ratios",
            value=tuple(ratios),
            remedy="give one for each depth",
        )


MOST_REMOVED = 0.999
"""Largest removed share of a stage that a solver gives."""


def solve_power(
    num_layers: int, retention: float, layers: Sequence[int], ratios: Sequence[float]
) -> list[float]:
    """Removed shares 1 − (1 − ratio)^t whose retention is the one wanted (or as near as it gets)."""
    if abs(stack(layers, ratios, num_layers) - retention) <= TOLERANCE:
        return list(ratios)

    def raised(power: float) -> list[float]:
        return [min(MOST_REMOVED, 1.0 - (1.0 - ratio) ** power) for ratio in ratios]

    low, high = 0.0, 1.0
    while stack(layers, raised(high), num_layers) > retention and high < 1e6:
        high *= 2.0
    for _ in range(100):
        middle = (low + high) / 2
        if stack(layers, raised(middle), num_layers) > retention:
            low = middle
        else:
            high = middle
    return raised(high)


def solve_first(
    num_layers: int, retention: float, layers: Sequence[int], ratios: Sequence[float]
) -> list[float]:
    """Removed shares of which the first is solved and the others stay as they are.

    Where the others alone remove too much, the first stage removes nothing, and what they keep is
    raised to one power.
    """
    if abs(stack(layers, ratios, num_layers) - retention) <= TOLERANCE:
        return list(ratios)
    later, before = list(ratios[1:]), layers[0] / num_layers
    without = stack(layers, [0.0, *later], num_layers)
    if without <= retention:
        return [0.0, *solve_power(num_layers, retention, layers[1:], later)]
    return [min(MOST_REMOVED, 1.0 - (retention - before) / (without - before)), *later]


SOLVERS = {"power": solve_power, "first": solve_first}
"""Ways to meet a retention with stages at given layers."""


def solve(
    num_layers: int,
    retention: float,
    count: int,
    ratio: float,
    allowed: Sequence[int],
    surcharge: Surcharge | None = None,
) -> tuple[Sequence[int], list[float]]:
    """Layers, among those `allowed`, and ratios of `count` stages, or of fewer where that many remove
    too much.

    With a surcharge as many stages stand where the closeness to the published spacing and the
    surcharge are together cheapest, within the tolerance of the retention.
    """
    best: tuple[float, Sequence[int], list[float]] | None = None
    for used in range(count, 0, -1):
        target = _Target(num_layers, retention, used, ratio, allowed)
        layers = target.closest()
        if layers is None:
            break
        ratios = target.ratios(layers)
        error = abs(stack(layers, ratios, num_layers) - retention)
        if best is None or error < best[0]:
            best = error, layers, ratios
        if ratios[-1] > 0.0 and error <= TOLERANCE:
            return (layers, ratios) if surcharge is None else target.cheapest(layers, surcharge)
    assert best is not None, "the caller has checked that `count` stages reach the target"
    return best[1], best[2]


def stack(layers: Sequence[int], ratios: Sequence[float], num_layers: int) -> float:
    total, share, previous = 0.0, 1.0, 0
    for layer, ratio in zip(layers, ratios, strict=True):
        total += share * (layer - previous)
        share, previous = share * (1 - ratio), layer
    return (total + share * (num_layers - previous)) / num_layers


@dataclass(frozen=True)
class _Target:
    """What `count` stages are placed for.

    Only schedules at or above the retention can be repaired by a *larger* last ratio, and ratios are
    at their limit; so layers that fit lie at or below it (or within the tolerance above).
    """

    num_layers: int
    retention: float
    count: int
    ratio: float
    allowed: Sequence[int]

    def closest(self) -> Sequence[int] | None:
        """Of all layers that fit those closest to the published spacing."""
        return min(filter(self._fits, self._candidates()), key=self._distance, default=None)

    def cheapest(
        self, closest: Sequence[int], surcharge: Surcharge
    ) -> tuple[Sequence[int], list[float]]:
        """Layers and ratios that meet the retention for the smallest distance and surcharge together.

        Among equals the one with the smaller distance is taken, so the choice is the same everywhere.
        """
        found = closest, self.ratios(closest)
        least = self._distance(closest)[0] + surcharge(*found)
        for layers in sorted(filter(self._fits, self._candidates()), key=self._distance):
            distance = self._distance(layers)[0]
            if distance >= least:
                break
            ratios = self.ratios(layers)
            error = abs(stack(layers, ratios, self.num_layers) - self.retention)
            if ratios[-1] <= 0.0 or error > TOLERANCE:
                continue
            total = distance + surcharge(layers, ratios)
            if total < least:
                least, found = total, (layers, ratios)
        return found

    def ratios(self, layers: Sequence[int]) -> list[float]:
        """The ratio of each stage, the last one lowered where whole layers miss the retention."""
        ratios = [self.ratio] * self.count
        ratios[-1] = _last_ratio(layers, ratios, self.num_layers, self.retention)
        return ratios

    def _reached(self, layers: Sequence[int]) -> float:
        return stack(layers, [self.ratio] * self.count, self.num_layers)

    def _fits(self, layers: Sequence[int]) -> bool:
        return self._reached(layers) <= self.retention + TOLERANCE

    def _distance(self, layers: Sequence[int]) -> tuple[float, float]:
        """From the published spacing, in layers; then from the retention."""
        reached, gap = self._reached(layers), max(1.0, 0.2 * self.num_layers)
        short = max(0.0, self.retention - reached - TOLERANCE)
        spread = sum((b - a - gap) ** 2 for a, b in itertools.pairwise(layers))
        return short * self.num_layers + 0.05 * spread, abs(reached - self.retention)

    def _candidates(self) -> Iterable[Sequence[int]]:
        """All choices of few stages; for many those with equal gaps, so that the search stays small.

        Gaps are counted in allowed layers.
        """
        allowed, count = self.allowed, self.count
        if math.comb(len(allowed), count) <= 50_000:
            return itertools.combinations(allowed, count)
        return (
            [allowed[start + gap * i] for i in range(count)]
            for start in range(len(allowed))
            for gap in range(1, (len(allowed) - 1 - start) // max(1, count - 1) + 1)
        )


def _last_ratio(
    layers: Sequence[int], ratios: Sequence[float], num_layers: int, retention: float
) -> float:
    """The last ratio that meets the target exactly, or the one given if it is already within reach."""
    reached = stack(layers, ratios, num_layers)
    if abs(reached - retention) <= TOLERANCE:
        return ratios[-1]
    without = stack(layers, [*ratios[:-1], 0.0], num_layers)
    full = stack(layers, [*ratios[:-1], 1.0], num_layers)
    return min(ratios[-1], max(0.0, (without - retention) / (without - full)))


def more_stages(
    num_layers: int, retention: float, ratio: float, allowed: Sequence[int], count: int
) -> str:
    for more in range(count + 1, len(allowed) + 1):
        lowest = stack(allowed[:more], [ratio] * more, num_layers)
        if lowest <= retention + TOLERANCE:
            return f"use {more} stages (windows with {more} entries) or a retention in that range"
    return "use a retention in that range, or a strategy whose stages can remove more at once"
