"""When a trial needs no more samples: it is shown to be beaten, or to lose too much."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lightkv.lab.designs.findings import strongest_rival
from lightkv.lab.grids.schema import VANILLA
from lightkv.lab.outcomes import Cell, Outcome
from lightkv.lab.search.loss_bounds import Margin, margin


@dataclass(frozen=True)
class Rule:
    """By what trials end early.

    Attributes:
        error: probability that a bound errs. Bounds here only steer: what they say wrongly costs a
            design that might have been on the front, never what is said of those that are.
        max_drop: loss against the uncompressed model from which on nothing more is asked; None: any.
        accuracy: scores are in 0 to 1.
        seed: of the bootstrap.
    """

    error: float
    max_drop: float | None = None
    accuracy: bool = True
    seed: int = 0

    def ended_by(
        self,
        outcomes: Sequence[Outcome],
        flops: float,
        cells: Iterable[Cell],
        answered: Mapping[str, Sequence[Outcome]],
    ) -> str:
        """Why a trial needs no more samples; "" if it does.

        Args:
            outcomes: of the trial so far.
            flops: that it costs, relative to the uncompressed model.
            cells: of the search so far.
            answered: name of a cell → its outcomes; those of the uncompressed model among them.
        """
        base = answered[VANILLA]
        if self.max_drop is not None and self._margin(base, outcomes).high < -self.max_drop:
            return f"loses more than {self.max_drop:g}"
        rival = strongest_rival(cells, answered, flops, len(base))
        if rival is not None and self._margin(answered[rival], outcomes).high < 0.0:
            return f"{rival} scores higher at no more cost"
        return ""

    def _margin(self, base: Sequence[Outcome], other: Sequence[Outcome]) -> Margin:
        asked = {outcome.sample for outcome in other}
        same = [outcome for outcome in base if outcome.sample in asked]
        return margin(same, other, self.error, accuracy=self.accuracy, seed=self.seed)
