"""What a stage works on, in numbers, and what it costs: components count their FLOPs from this."""

from __future__ import annotations

from dataclasses import dataclass

from lightkv.core.needs import Need, Needs

SOFTMAX = 5
"""FLOPs of the softmax of one logit."""


@dataclass(frozen=True)
class Flops:
    """FLOPs of some work; a multiply-add is two.

    Attributes:
        products: of matrix products, which torch's FlopCounterMode sees in a run.
        other: of everything else: softmax, scatters, sums.
    """

    products: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        return self.products + self.other

    def __add__(self, more: Flops) -> Flops:
        return Flops(self.products + more.products, self.other + more.other)


@dataclass(frozen=True)
class StageSizes:
    """One sample at a stage.

    Attributes:
        vision: tokens that take part.
        text: the other tokens.
        windows: tokens in each window; protected tokens are in none.
        width: numbers in a token: the hidden size, or those of all keys and values.
        heads, head_dim: attention heads of the decoder, and numbers in the query of one.
    """

    vision: int
    text: int
    windows: tuple[int, ...]
    width: int
    heads: int
    head_dim: int

    def attention(self, needs: Needs) -> Flops:
        """Of what is computed of the attention call beside it, once for all who need it.

        For each need a block of logits `[H, N, K]` and its softmax: of the prompt's K keys, of the
        last query, or of all.
        """
        length = self.vision + self.text
        keys = {
            Need.PROMPT_LOGITS: self.text,
            Need.PROMPT_ROWS: self.text,
            Need.LAST_ROW: 1,
            Need.COLUMN_SUMS: length,
        }
        blocks = sum(count for need, count in keys.items() if need in needs)
        logits = self.heads * length * blocks
        return Flops(2 * self.head_dim * logits, SOFTMAX * logits)

    def similarities(self) -> Flops:
        """Of the similarities of alternating halves in each window."""
        pairs = sum(((n + 1) // 2) * (n // 2) for n in self.windows)
        return Flops(2 * self.width * pairs)

    def weighted_sum(self) -> Flops:
        """Of adding up all tokens that take part, each times a weight, by scatter."""
        return Flops(other=2 * self.width * self.vision)
