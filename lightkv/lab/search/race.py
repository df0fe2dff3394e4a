"""Several candidates for one place, of which fewer are looked at the more samples a look takes.

Successive halving (Jamieson and Talwalkar, AISTATS 2016). Knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from lightkv.lab.search.smallest import Verdict

Look = tuple[Verdict, float]
"""Verdict on a candidate, and by how much it is better than what it is compared with."""
T = TypeVar("T")


class Race(Generic[T]):
    """Candidates at one point of a search.

    All are looked at on the fewest samples, the better half of them on the next larger set, and so on.
    The first that is accepted ends a look: the others need not be better, only as good as asked.

    Args:
        candidates: in the order in which they are tried while nothing is known of them.

    Attributes:
        winner: that was accepted in the last look, or None.
    """

    def __init__(self, candidates: Sequence[T]) -> None:
        self._candidates = list(candidates)
        self._seen: dict[int, Look] = {}
        self.winner: T | None = None

    def run(self, rung: int, look: Callable[[T], Look]) -> Verdict:
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

    def _tell(self, numbers: Sequence[int], look: Callable[[T], Look]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for number in numbers:
            self._seen[number] = look(self._candidates[number])
            verdicts.append(self._seen[number][0])
            if verdicts[-1] == "accepted":
                self.winner = self._candidates[number]
                break
        return verdicts
