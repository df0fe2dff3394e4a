"""Counting: parameters, FLOPs and KV bytes of a decoder and of its stages, without weights.

Conventions: a multiply-add is two FLOPs; a linear layer costs 2 · parameters for each token;
attention costs 4 · heads · head width for each (query, key) pair and counts the full square of the
prefill, as fused kernels without block skipping, torch's FlopCounterMode and the published tables do;
normalisation, rotary embedding and softmax are left out (below 1 %). Of experts those count that a
token is sent to. `lightkv.core.run.tracing` measures what is counted here on a real model without
weights, and the two are equal, but for Llama 4, whose code in transformers runs every expert.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

from lightkv.core.cost.layers import Entry
from lightkv.core.cost.layers import LayerShape as LayerShape
from lightkv.core.errors import ConfigError
from lightkv.core.needs import Source, needs_from
from lightkv.core.sizes import Flops, StageSizes
from lightkv.core.stage.plan import StagePlan
from lightkv.core.stage.stage import Stage

T = TypeVar("T")


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a decoder-only transformer.

    Where layers differ, or are of another kind, `layers` says what each is. The sizes of heads and maps
    are then those of the first layer with attention, for listings.

    Attributes:
        gated_mlp: three projections (gate, up, down) instead of two.
        bytes_per_value: of a cached key or value (2 for half precision).
        windows: sliding window of each layer, None where it attends to everything; empty if none
            slides. A layer of window W caches its last W − 1 tokens.
        processes: among how many processes the heads are spread. Bytes are those of one process,
            FLOPs those of all together.
        layers: each layer by itself; empty if all are alike and as the other sizes say.
        entry_parameters: weights of linear maps that each token goes through once, before the layers.
        estimate: why FLOPs and counted bytes are only an estimate, as a sentence without a full stop;
            empty if they are counted. Bytes that are read of a cache are exact all the same.
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
    layers: tuple[LayerShape, ...] = ()
    entry_parameters: int = 0
    estimate: str = ""

    def layer(self, index: int) -> LayerShape:
        """One layer by itself."""
        return self._each[index]

    @cached_property
    def _each(self) -> tuple[LayerShape, ...]:
        """Every layer by itself."""
        if self.layers:
            return self.layers
        windows = self.windows or (None,) * self.num_layers
        made = {window: self._alike(window) for window in set(windows)}
        return tuple(made[window] for window in windows)

    def _alike(self, window: int | None) -> LayerShape:
        """A layer as the sizes say that all are."""
        entry = Entry(self.num_kv_heads, self.head_dim)
        return LayerShape(
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            value_dim=self.head_dim,
            parameters=self.layer_parameters,
            key=entry,
            value=entry,
            window=window,
        )

    @cached_property
    def cached_keys(self) -> tuple[Entry, ...]:
        """What each layer caches as keys; of all processes together."""
        return tuple(layer.key for layer in self._each)

    @property
    def without_entries(self) -> tuple[int, ...]:
        """Layers that cache nothing of a token."""
        return tuple(index for index, layer in enumerate(self._each) if not layer.width)

    def unwindowed(self) -> DecoderShape:
        """The same with a cache that keeps what lies outside the windows too."""
        layers = tuple(replace(layer, window=None) for layer in self.layers)
        return replace(self, windows=(), layers=layers)

    @property
    def layer_parameters(self) -> int:
        """Weights of the linear maps of one decoder layer, where all are alike."""
        attention = self.hidden_size * self.head_dim * (2 * self.num_heads + 2 * self.num_kv_heads)
        mlp = (3 if self.gated_mlp else 2) * self.hidden_size * self.intermediate_size
        return attention + mlp

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of the key and value of one token in one layer, in one process.

        Raises:
            ConfigError: layers differ in what they cache.
        """
        found = {self.token_bytes(layer) for layer in range(self.num_layers)}
        if len(found) > 1:
            raise ConfigError(
                "the layers of this decoder cache different numbers of bytes for a token",
                field="layers",
                value=sorted(found),
                remedy="ask for the bytes of one layer: token_bytes(layer)",
            )
        return found.pop()

    def token_bytes(self, layer: int) -> int:
        """Bytes of what one layer caches of one token, in one process."""
        return self.layer(layer).token_bytes(self.bytes_per_value, self.processes)

    def state_bytes(self, layer: int) -> int:
        """Bytes that one layer keeps of a sequence, however long."""
        return self.layer(layer).state_bytes(self.bytes_per_value)

    def held(self, layer: int, tokens: int) -> int:
        """How many of `tokens` tokens the cache of a layer holds: the last ones."""
        return self.layer(layer).held(tokens)

    def layer_flops(self, queries: int, keys: int, layer: int = 0) -> int:
        """FLOPs of a layer for `queries` new tokens that attend to `keys` keys."""
        return self.layer(layer).flops(queries, keys)

    def head_flops(self, tokens: int) -> int:
        """FLOPs of the vocabulary projection."""
        return 2 * self.hidden_size * self.vocab_size * tokens

    def entry_flops(self, tokens: int) -> int:
        """FLOPs before the layers."""
        return 2 * self.entry_parameters * tokens

    def prefill_flops(self, lengths: Sequence[int], prompt: int | None = None) -> int:
        """FLOPs of a prefill that sees `lengths[l]` tokens in layer l, and one row of logits.

        Args:
            lengths: of each layer.
            prompt: tokens that enter the decoder; as many as its first layer sees by default.
        """
        total = self.entry_flops(lengths[0] if prompt is None else prompt) + self.head_flops(1)
        return total + sum(self.layer(i).flops(n, n) for i, n in enumerate(lengths))

    def decode_flops(self, lengths: Sequence[int], tokens: int) -> int:
        """FLOPs of `tokens` decode steps on caches of `lengths[l]` entries."""
        layers = [self.layer(i) for i in range(len(lengths))]
        total = tokens * (self.entry_flops(1) + self.head_flops(1))
        for layer, length in zip(layers, lengths, strict=True):
            total += sum(layer.flops(1, layer.held(length + i) + 1) for i in range(tokens))
        return total

    def kv_bytes(self, lengths: Sequence[int]) -> int:
        """Bytes of a cache that holds `lengths[l]` tokens in layer l."""
        return sum(self.layer_bytes(layer, tokens) for layer, tokens in enumerate(lengths))

    def layer_bytes(self, layer: int, tokens: int) -> int:
        """Bytes of a layer's cache of a sequence of so many tokens, its states among them."""
        entries = self.held(layer, tokens) * self.token_bytes(layer)
        return entries + self.state_bytes(layer)

    def stage_sizes(
        self,
        plan: StagePlan,
        length: int,
        row: int,
        *,
        cached: bool = False,
        layer: int = 0,
    ) -> StageSizes:
        """What a planned stage works on in one row, of which the layer holds `length` tokens.

        Args:
            plan: of the stage.
            length: tokens of the row.
            row: of the batch.
            cached: whether it works on the cache, where a token is as wide as the keys and values of
                all heads.
            layer: the one whose attention it may read, or whose cache it works on.
        """
        vision, own = plan.counts_before[row], self.layer(layer)
        return StageSizes(
            vision=vision,
            text=length - vision,
            windows=plan.populations[row],
            width=own.width if cached else self.hidden_size,
            heads=own.num_heads,
            head_dim=own.head_dim,
        )


def cache_flops(
    rounds: Iterable[tuple[Stage, StagePlan]],
    shape: DecoderShape,
    length: int,
    row: int,
    layer: int = 0,
) -> Flops:
    """FLOPs, for one row, of the rounds on the cache of a layer that holds `length` of its tokens."""
    total = Flops()
    for number, (stage, plan) in enumerate(rounds):
        if plan.counts_after[row] < plan.counts_before[row]:
            sizes = shape.stage_sizes(plan, length, row, cached=True, layer=layer)
            total += stage.flops(sizes, first=number == 0)
    return total


def read_layer(stage: Stage, after_layer: int) -> int:
    """The layer whose attention a stage between layers reads, if it reads any."""
    return after_layer if needs_from(stage.needs, Source.NEXT_LAYER) else max(after_layer - 1, 0)


def equal_layers(values: Iterable[T]) -> list[tuple[int, int, T]]:
    """(first layer, last layer, value) of runs of layers with equal values."""
    found = []
    for value, run in itertools.groupby(enumerate(values), key=lambda each: each[1]):
        layers = [layer for layer, _ in run]
        found.append((layers[0], layers[-1], value))
    return found
