"""One step of the engine on the host: which requests compress, and what each segment holds of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lightkv.core.layout import IntArray
from lightkv.integrations.vllm.plan import Entry


@dataclass(frozen=True)
class Row:
    """A request in a batch.

    Attributes:
        computed: tokens computed before this step.
        count: tokens of this step.
        entry: None where the prompt holds no vision tokens.
    """

    computed: int
    count: int
    entry: Entry | None

    @property
    def compresses(self) -> bool:
        """Whether its vision tokens run through the decoder in this step."""
        return self.entry is not None and self.computed < self.entry.piece


class Step:
    """All requests of a batch, in its order.

    Args:
        rows: the requests.
        segments: how many there are.
    """

    def __init__(self, rows: Sequence[Row], segments: int) -> None:
        self.rows = rows
        self.segments = segments
        self.computed = np.array([row.computed for row in rows], dtype=np.int64)
        self.counts = np.array([row.count for row in rows], dtype=np.int64)
        self._places: dict[int, tuple[IntArray, IntArray]] = {}
        self.compressing = tuple(i for i, row in enumerate(rows) if row.compresses)
        for i in self.compressing:
            row = rows[i]
            assert row.entry is not None
            if row.computed or row.count < row.entry.piece:
                raise RuntimeError(
                    f"the first {row.entry.piece} tokens of a prompt with images are one piece, and the "
                    f"scheduler gave {row.count} behind {row.computed}"
                )

    @property
    def total(self) -> int:
        """Tokens of the step."""
        return int(self.counts.sum())

    @cached_property
    def removed(self) -> IntArray:
        """`[R, S]` tokens that each segment lacks of each request, once its pictures are computed."""
        nothing = (0,) * self.segments
        rows = [nothing if row.entry is None else row.entry.removed for row in self.rows]
        return np.array(rows, dtype=np.int64).reshape(len(self.rows), self.segments)

    @cached_property
    def _before(self) -> IntArray:
        first = np.zeros(len(self.rows), dtype=np.int64)
        first[list(self.compressing)] = 1
        # Requests begin with their pictures: whoever compresses now held nothing before.
        return self.computed[:, None] - self.removed * (1 - first)[:, None]

    def before(self, segment: int) -> IntArray:
        """`[R]` entries that a segment held before this step."""
        return self._before[:, segment]

    def held(self, segment: int) -> IntArray:
        """`[R]` entries that a segment holds behind it."""
        return self.computed + self.counts - self.removed[:, segment]

    def new(self, segment: int) -> IntArray:
        """`[R]` entries that it adds."""
        return self.held(segment) - self.before(segment)

    def places(self, segment: int) -> tuple[IntArray, IntArray]:
        """`[T′]` request of each new entry of a segment, and `[T′]` its place in the request."""
        if segment not in self._places:
            self._places[segment] = self._placed(segment)
        return self._places[segment]

    def _placed(self, segment: int) -> tuple[IntArray, IntArray]:
        new, before = self.new(segment), self.before(segment)
        rows = np.repeat(np.arange(len(new)), new)
        ends = np.cumsum(new)
        inside = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - new - before, new)
        return rows, inside

    def slots(self, segment: int, table: IntArray, page: int) -> IntArray:
        """`[T′]` place in the KV cache of each new entry of a segment.

        Args:
            segment: of the group.
            table: `[≥ R, W]` blocks of each request.
            page: entries of a block.
        """
        rows, inside = self.places(segment)
        return table[rows, inside // page].astype(np.int64) * page + inside % page
