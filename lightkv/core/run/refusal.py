"""What becomes of a model type, as data: adapters answer it, `find_adapter` and listings read it."""

from __future__ import annotations

from dataclasses import dataclass

from lightkv.core.errors import ModelError

GRID, STRIP, REFUSED = "grid", "strip", "refused"
"""How a type works: with true geometry, as one line of tokens for each picture, or not at all."""


@dataclass(frozen=True)
class Refusal:
    """Why models of a kind cannot be compressed.

    Attributes:
        reason: what is wrong with them, one sentence without a final full stop.
        remedy: what would work, one sentence without a final full stop.
        field: what an error names as wrong.
    """

    reason: str
    remedy: str
    field: str = "model"

    def error(self, model: object) -> ModelError:
        """The error for one model; it names its class."""
        return ModelError(
            self.reason, field=self.field, value=type(model).__name__, remedy=self.remedy
        )


@dataclass(frozen=True)
class Standing:
    """What an adapter makes of a model type, told without a model.

    Attributes:
        how: `GRID`, `STRIP` or `REFUSED`.
        note: the reason of a refusal, or what else one should know.
        remedy: of a refusal: what would work.
        guessed: whether that follows from names that most models share, not from a family.
        tried: whether this project ran the type, with random weights at least.
    """

    how: str
    note: str = ""
    remedy: str = ""
    guessed: bool = False
    tried: bool = True
