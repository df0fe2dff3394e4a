"""Counting: parameters, FLOPs and KV bytes of a decoder and of its stages, without weights.

Conventions: a multiply-add is two FLOPs; a linear layer costs 2 · parameters for each token;
attention costs 4 · heads · head width for each (query, key) pair and counts the full square of the
prefill, as fused kernels without block skipping, torch's FlopCounterMode and the published tables do;
normalisation, rotary embedding and softmax are left out (below 1 %). `lightkv.core.run.tracing` measures
what is counted here on a real model without weights, and the two are equal.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lightkv.core.sizes import Flops, StageSizes
from lightkv.core.stage.plan import StagePlan
from lightkv.core.stage.stage import Stage

T = TypeVar("T")


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a decoder-only transformer.

    Attributes:
        gated_mlp: three projections (gate, up, down) instead of two.
        bytes_per_value: of a cached key or value (2 for half precision).
        windows: sliding window of each layer, None where it attends to everything; empty if none
            slides. A layer of window W caches its last W − 1 tokens.
        processes: among how many processes the heads are spread. Bytes are those of one process,
            FLOPs those of all together.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    gated_mlp: bool = True
    bytes_per_value: int = 2
    windows: tuple[int | None, ...] = ()
    processes: int = 1

    @property
    def layer_parameters(self) -> int:
        """Weights of the linear maps of one decoder layer."""
        attention = self.hidden_size * self.head_dim * (2 * self.num_heads + 2 * self.num_kv_heads)
        mlp = (3 if self.gated_mlp else 2) * self.hidden_size * self.intermediate_size
        return attention + mlp

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of the key and value of one token in one layer, in one process."""
        held = self.num_kv_heads // self.processes
        return 2 * held * self.head_dim * self.bytes_per_value

    def held(self, layer: int, tokens: int) -> int:
        """How many of `tokens` tokens the cache of a layer holds: the last ones."""
        window = self.windows[layer] if self.windows else None
        return tokens if window is None else min(tokens, window - 1)

    def layer_flops(self, queries: int, keys: int) -> int:
        """FLOPs of one layer for `queries` new tokens that attend to `keys` keys."""
        linear = 2 * self.layer_parameters * queries
        return linear + 4 * self.num_heads * self.head_dim * queries * keys

    def head_flops(self, tokens: int) -> int:
        """FLOPs of the vocabulary projection."""
        return 2 * self.hidden_size * self.vocab_size * tokens

    def prefill_flops(self, lengths: Sequence[int]) -> int:
        """FLOPs of a prefill that sees `lengths[l]` tokens in layer l, and one row of logits."""
        return sum(self.layer_flops(n, n) for n in lengths) + self.head_flops(1)

    def decode_flops(self, lengths: Sequence[int], tokens: int) -> int:
        """FLOPs of `tokens` decode steps on caches of `lengths[l]` entries."""
        total = 0
        for step in range(tokens):
            keys = (self.held(layer, n + step) + 1 for layer, n in enumerate(lengths))
            total += sum(self.layer_flops(1, n) for n in keys) + self.head_flops(1)
        return total

    def kv_bytes(self, lengths: Sequence[int]) -> int:
        """Bytes of a cache that holds `lengths[l]` tokens in layer l."""
        held = (self.held(layer, tokens) for layer, tokens in enumerate(lengths))
        return self.kv_bytes_per_token * sum(held)

    def stage_sizes(
        self, plan: StagePlan, length: int, row: int, *, cached: bool = False
    ) -> StageSizes:
        """What a planned stage works on in one row, of which the layer holds `length` tokens.

        On the cache (`cached`) a token is as wide as the keys and values of all heads.
        """
        vision = plan.counts_before[row]
        return StageSizes(
            vision=vision,
            text=length - vision,
            windows=plan.populations[row],
            width=2 * self.num_kv_heads * self.head_dim if cached else self.hidden_size,
            heads=self.num_heads,
            head_dim=self.head_dim,
        )


def cache_flops(
    rounds: Iterable[tuple[Stage, StagePlan]], shape: DecoderShape, length: int, row: int
) -> Flops:
    """FLOPs, for one row, of the rounds on the cache of a layer that holds `length` of its tokens."""
    total = Flops()
    for number, (stage, plan) in enumerate(rounds):
        if plan.counts_after[row] < plan.counts_before[row]:
            sizes = shape.stage_sizes(plan, length, row, cached=True)
            total += stage.flops(sizes, first=number == 0)
    return total


def equal_layers(values: Iterable[T]) -> list[tuple[int, int, T]]:
    """(first layer, last layer, value) of runs of layers with equal values."""
    found = []
    for value, run in itertools.groupby(enumerate(values), key=lambda each: each[1]):
        layers = [layer for layer, _ in run]
        found.append((layers[0], layers[-1], value))
    return found
