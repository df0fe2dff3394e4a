"""FLOPs of layers that carry a state from token to token instead of caching each of them.

Counted are the products that torch's FlopCounterMode sees in the implementation in plain torch that
transformers runs without extra kernels: a prompt in chunks, padded to whole ones, and convolutions over
their padding too. What is done element by element (decay, the solution of a chunk's triangular
system, one step of a recurrence) is left out, as normalisation and softmax are: below 1 % of a layer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True)
class Recurrence(ABC):
    """What a layer without a growing cache does between its linear maps.

    Attributes:
        channels: that its causal convolution runs over, one filter for each.
        kernel: taps of a filter.
    """

    channels: int
    kernel: int

    def flops(self, tokens: int, *, goes_on: bool) -> int:
        """FLOPs for `tokens` new tokens; `goes_on`: they follow others, whose state is at hand."""
        if tokens == 1 and goes_on:
            return self._convolution(2) + self._step()
        return self._convolution(tokens + self.kernel - 1) + self._scan(tokens)

    def _convolution(self, outputs: int) -> int:
        """Of the convolution, with so many outputs in each channel."""
        return 2 * self.channels * self.kernel * outputs

    def _step(self) -> int:
        """Matrix products of one more token."""
        return 0

    @abstractmethod
    def _scan(self, tokens: int) -> int:
        """Matrix products over a prompt of `tokens`."""


@dataclass(frozen=True)
class ShortConvolution(Recurrence):
    """A convolution between two gates, and nothing else (LFM2)."""

    def _scan(self, tokens: int) -> int:
        return 0


@dataclass(frozen=True)
class GatedDelta(Recurrence):
    """The gated delta rule in chunks (Yang et al., 2025; Qwen3.5).

    Attributes:
        heads: of the values, each with a state of `key_dim` × `value_dim`.
        key_dim, value_dim: numbers in a key and in a value of one head.
        chunk: tokens of a chunk.
    """

    heads: int
    key_dim: int
    value_dim: int
    chunk: int = 64

    def _scan(self, tokens: int) -> int:
        chunk, key, value = self.chunk, self.key_dim, self.value_dim
        # Keys with keys and queries with keys; the latter with values. Read, correct, write the state.
        inside = chunk * chunk * (2 * key + value)
        state = 3 * chunk * key * value
        return 2 * self.heads * -(-tokens // chunk) * (inside + state)


@dataclass(frozen=True)
class SelectiveScan(Recurrence):
    """A state space with scalar decay in chunks (Dao and Gu, 2024; Mamba-2).

    Attributes:
        heads: each with a state of `head_dim` × `state`.
        head_dim: numbers in the input of one head.
        state: numbers that each of them is spread over.
        chunk: tokens of a chunk.
    """

    heads: int
    head_dim: int
    state: int
    chunk: int = 256

    def _scan(self, tokens: int) -> int:
        chunk, width, state = self.chunk, self.head_dim, self.state
        chunks = -(-tokens // chunk)
        # Outputs with inputs of a chunk; write and read its state; hand states on to later chunks.
        inside = chunk * chunk * (state + width)
        states = 2 * chunk * width * state
        across = (chunks + 1) ** 2 * width * state
        return 2 * self.heads * (chunks * (inside + states) + across)

    def _step(self) -> int:
        return 2 * self.heads * self.head_dim * self.state
