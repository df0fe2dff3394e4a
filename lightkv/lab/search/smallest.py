"""The smallest of ordered points that passes, from few points and few samples; and, of several
candidates for one point, one that passes. Knows no model.

Bisection over the points (passing is taken to be monotone: what passes at a point passes at every
larger one), and on each point successive growth of the samples until they decide (in the spirit of
successive halving: Jamieson and Talwalkar, AISTATS 2016). Early looks only steer: the answer and its
neighbour below are always judged on all samples, so a look that misled costs evaluations and not the
answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

Verdict = Literal["accepted", "rejected", "undecided"]
Judge = Callable[[int, int], Verdict]
"""Point and rung (0 has the fewest samples) → verdict."""
Standing = tuple[Verdict, float]
"""Verdict on a candidate, and by how much it is better than what it is compared with."""
T = TypeVar("T")


@dataclass(frozen=True)
class Look:
    """The last verdict on a point, and the rung of its samples."""

    verdict: Verdict
    rung: int


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        answer: smallest point that passes on all samples, or None.
        looks: point → last look, in the order in which points were tried first.
        exhausted: whether the budget ended the search, so that a smaller point may pass.
        odd: points below the answer that pass on all samples although one between does not.
    """

    answer: int | None
    looks: dict[int, Look]
    exhausted: bool
    odd: tuple[int, ...]


def most_points(points: int) -> int:
    """Points that a search tries at most unless an early look misled it: those of the bisection,
    and one that tests whether passing is monotone."""
    return min(points, math.ceil(math.log2(points + 1)) + 1)


def search(points: int, rungs: int, judge: Judge, budget: int | None = None) -> Found:
    """Search points 0 … `points` − 1.

    Args:
        points: how many there are.
        rungs: growing sets of samples; the last is all of them.
        judge: called at most once for each point and rung, rungs of a point ascending.
        budget: points to try at most; `most_points` if None.
    """
    return _Search(points, rungs, judge, most_points(points) if budget is None else budget).run()


class _ExhaustedError(Exception):
    """The budget allows no further point."""


class _Search:
    def __init__(self, points: int, rungs: int, judge: Judge, budget: int) -> None:
        self.points = points
        self.last = rungs - 1
        self.judge = judge
        self.budget = budget
        self.looks: dict[int, Look] = {}

    def run(self) -> Found:
        exhausted = False
        try:
            answer = self._settle()
        except _ExhaustedError:
            answer, exhausted = self._smallest_so_far(), True
        if answer is not None and len(self.looks) < self.budget:
            self._test_below(answer)
        below = range(answer or 0)
        odd = tuple(p for p in below if p in self.looks and self._passes(p))
        return Found(answer, self.looks, exhausted, odd)

    def _settle(self) -> int | None:
        low, high = -1, self.points  # does not pass; passes
        while True:
            while high - low > 1:
                middle = (low + high) // 2
                if self._decide(middle):
                    high = middle
                else:
                    low = middle
            if high < self.points and not self._finish(high):
                low, high = high, min(self._those(True, above=high), default=self.points)
            elif low >= 0 and self._finish(low):
                low, high = max(self._those(False, below=low), default=-1), low
            else:
                return high if high < self.points else None

    def _those(self, passing: bool, above: int = -1, below: int | None = None) -> list[int]:
        end = self.points if below is None else below
        return [p for p in self.looks if above < p < end and self._passes(p) is passing]

    def _smallest_so_far(self) -> int | None:
        return next((p for p in sorted(self._those(True)) if self._finish(p)), None)

    def _test_below(self, answer: int) -> None:
        """Bisection cannot see that passing is not monotone; a point further down can."""
        point = answer - 2
        if point >= 0 and point not in self.looks and self._decide(point):
            self._finish(point)

    def _decide(self, point: int) -> bool:
        """Whether a point seems to pass, from as few samples as tell."""
        for rung in range(self.last + 1):
            self._look(point, rung)
            if self.looks[point].verdict != "undecided":
                break
        return self._passes(point)

    def _finish(self, point: int) -> bool:
        """Whether a point passes on all samples."""
        if self.looks[point].rung < self.last:
            self._look(point, self.last)
        return self._passes(point)

    def _look(self, point: int, rung: int) -> None:
        if point not in self.looks and len(self.looks) >= self.budget:
            raise _ExhaustedError
        self.looks[point] = Look(self.judge(point, rung), rung)

    def _passes(self, point: int) -> bool:
        """Undecided on all samples is not shown, so it does not pass."""
        return self.looks[point].verdict == "accepted"


class Race(Generic[T]):
    """Candidates at one point of a search, of which fewer are looked at the more samples a look takes.

    Successive halving: all are looked at on the fewest samples, the better half of them on the next
    larger set, and so on. The first that is accepted ends a look: the others need not be better, only
    as good as asked.

    Args:
        candidates: in the order in which they are tried while nothing is known of them.

    Attributes:
        winner: that was accepted in the last look, or None.
    """

    def __init__(self, candidates: Sequence[T]) -> None:
        self._candidates = list(candidates)
        self._seen: dict[int, Standing] = {}
        self.winner: T | None = None

    def run(self, rung: int, look: Callable[[T], Standing]) -> Verdict:
        """Look at those that are still in the race, on the samples of a rung (0 has the fewest).

        Returns:
            accepted if one is, rejected if all that were looked at are, else undecided.
        """
        self.winner = None
        verdicts = self._tell(self._ranked(rung), look)
        if "accepted" not in verdicts:
            # One that was accepted too early kept others from being looked at.
            verdicts += self._tell([n for n in self._all if n not in self._seen], look)
        if "accepted" in verdicts:
            return "accepted"
        return "rejected" if all(v == "rejected" for v in verdicts) else "undecided"

    @property
    def _all(self) -> range:
        return range(len(self._candidates))

    def _ranked(self, rung: int) -> list[int]:
        """Who is looked at: those that were seen, the accepted first, then by their difference."""
        seen = sorted(self._seen, key=lambda n: (self._seen[n][0] != "accepted", -self._seen[n][1]))
        if not seen:
            return list(self._all)
        return seen[: max(1, math.ceil(len(self._candidates) / 2**rung))]

    def _tell(self, numbers: Sequence[int], look: Callable[[T], Standing]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for number in numbers:
            self._seen[number] = look(self._candidates[number])
            verdicts.append(self._seen[number][0])
            if verdicts[-1] == "accepted":
                self.winner = self._candidates[number]
                break
        return verdicts
