"""The sizes of one decoder layer: what it computes for a token, and what it keeps of it."""

from __future__ import annotations

from dataclasses import dataclass

from lightkv.core.cost.recurrence import Recurrence


@dataclass(frozen=True)
class Entry:
    """One of the two tensors that a layer caches of each token.

    Attributes:
        heads: 0 where nothing is cached.
        width: numbers in a head.
    """

    heads: int
    width: int

    def numbers(self, processes: int = 1) -> int:
        """Numbers of a token that one of `processes` holds; a single head cannot be spread."""
        held = self.heads // processes if self.heads > 1 else self.heads
        return held * self.width


NOTHING = Entry(0, 0)


@dataclass(frozen=True)
class State:
    """A tensor of constant size that a layer keeps for a sequence, however long.

    Attributes:
        numbers: in it.
        bytes_per_value: None where they have the dtype of the cache.
    """

    numbers: int
    bytes_per_value: int | None = None


@dataclass(frozen=True)
class LayerShape:
    """Sizes of one decoder layer.

    Attributes:
        num_heads: query heads; 0 where the layer has no attention.
        head_dim: numbers in a query, and in the key that it meets, of one head.
        value_dim: numbers in a value of one head.
        parameters: weights of the linear maps that one token goes through; of experts those that it
            is sent to.
        key, value: what is cached of each token. Not always what queries meet: latents are smaller,
            and a layer that reads the cache of another keeps nothing.
        expansion: weights of a linear map that every key goes through in each pass, where latents are
            cached.
        window: a sliding window, or a chunk; None where the layer attends to everything. A layer of
            window W caches its last W − 1 tokens.
        states: tensors of constant size.
        recurrence: what works on them.
    """

    num_heads: int
    head_dim: int
    value_dim: int
    parameters: int
    key: Entry = NOTHING
    value: Entry = NOTHING
    expansion: int = 0
    window: int | None = None
    states: tuple[State, ...] = ()
    recurrence: Recurrence | None = None

    @property
    def width(self) -> int:
        """Numbers cached of one token."""
        return self.key.numbers() + self.value.numbers()

    def held(self, tokens: int) -> int:
        """How many of `tokens` tokens its cache reaches: the last ones."""
        return tokens if self.window is None else min(tokens, self.window - 1)

    def flops(self, queries: int, keys: int) -> int:
        """FLOPs for `queries` new tokens that attend to `keys` keys, themselves among them."""
        total = 2 * self.parameters * queries + 2 * self.expansion * keys
        total += 2 * self.num_heads * (self.head_dim + self.value_dim) * queries * keys
        if self.recurrence is not None:
            total += self.recurrence.flops(queries, goes_on=keys > queries)
        return total

    def token_bytes(self, bytes_per_value: int, processes: int = 1) -> int:
        """Bytes of what is cached of one token in one process."""
        return (self.key.numbers(processes) + self.value.numbers(processes)) * bytes_per_value

    def state_bytes(self, bytes_per_value: int) -> int:
        """Bytes of its states, for one sequence."""
        sizes = ((each.numbers, each.bytes_per_value or bytes_per_value) for each in self.states)
        return sum(numbers * size for numbers, size in sizes)
