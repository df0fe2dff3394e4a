"""The decoder layers of a step that compresses: run one by one, with the stages between them.

The engine packs all requests of a step into one sequence of rows. Requests with equal layouts go through
a stage together, as the rows of a batch; whoever does not compress passes by. Behind the last layer each
survivor's row goes back to its place in the uncompressed batch, where the engine looks for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lightkv.core.attention import QueryKeyView
from lightkv.core.layout import VisionLayout
from lightkv.core.needs import Source, needs_from
from lightkv.core.prompt import prompt_index
from lightkv.core.run.engine import Engine
from lightkv.core.run.prefill import Prefill
from lightkv.core.transfer import to_device
from lightkv.integrations.vllm.attention import queries_and_keys
from lightkv.integrations.vllm.plan import ServingPlan
from lightkv.integrations.vllm.step import Step


@dataclass
class Batch:
    """Requests of equal layout that compress together.

    Attributes:
        rows: their places among the requests of the step, ascending.
        starts: of each, its first row among all rows of the step now.
        origins: of each, its first row in the uncompressed batch.
        run: the pass through the stages.
    """

    rows: tuple[int, ...]
    starts: list[int]
    origins: list[int]
    run: Prefill

    @property
    def layout(self) -> VisionLayout:
        """The layout now."""
        return self.run.layout

    def take(self, packed: torch.Tensor) -> torch.Tensor:
        """`[T, …]` of all requests → `[B, N, …]` of these."""
        length, first = self.layout.length, self.starts[0]
        if self.starts == list(range(first, first + length * len(self.starts), length)):
            return packed[first : first + length * len(self.starts)].unflatten(0, (-1, length))
        return torch.stack([packed[start : start + length] for start in self.starts])


class Pass:
    """A step on its way through the decoder layers.

    Args:
        plan: the segments.
        engine: the pipeline on this decoder.
        step: the requests.
        hidden_states: `[T, D]` what enters the first layer.
        positions: `[T]` or `[A, T]` rotary positions.
        deep: `[T, D]` what is added behind each of the first layers, all of them before any stage.
    """

    def __init__(
        self,
        plan: ServingPlan,
        engine: Engine,
        step: Step,
        hidden_states: torch.Tensor,
        positions: torch.Tensor,
        deep: Sequence[torch.Tensor] = (),
    ) -> None:
        self.plan, self.engine, self.step = plan, engine, step
        self.hidden_states, self.residual = hidden_states, None
        self.all_positions = self.positions = positions
        self.deep = deep
        self.counts = step.counts.tolist()
        self.origin: torch.Tensor | None = None
        self.batches = self._batches()
        for batch in self.batches:
            batch.run.read_embeddings(batch.take(hidden_states))

    def _batches(self) -> list[Batch]:
        starts = _starts(self.counts)
        alike: dict[Any, list[int]] = {}
        for row in self.step.compressing:
            entry = self.step.rows[row].entry
            assert entry is not None
            alike.setdefault((entry.spans, entry.prompt, self.counts[row]), []).append(row)
        batches = []
        for rows in alike.values():
            entry, count = self.step.rows[rows[0]].entry, self.counts[rows[0]]
            assert entry is not None
            layout = self.plan.layout(entry, count, len(rows))
            # Seeded components draw the same for a request each time that it is computed.
            self.engine.runs = 0
            where = [starts[row] for row in rows]
            batches.append(Batch(tuple(rows), where, where, self.engine.begin(layout)))
        return batches

    def run(self, layers: Sequence[nn.Module]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`[T′, D]` what leaves the last layer, and the residual beside it."""
        for index, layer in enumerate(layers):
            if index in self.plan.cuts:
                self._stage(index, layer)
            reading = [
                batch
                for batch in self.batches
                if needs_from(batch.run.needs(index + 1), Source.ATTENTION)
            ]
            if not reading:
                self._layer(index, layer)
                continue
            with queries_and_keys(attention_of(layer)) as seen:
                self._layer(index, layer)
            for batch in reading:
                batch.run.read_attention(index + 1, self._view(batch, layer, *seen[-1]))
        return self.hidden_states, self.residual

    def _layer(self, index: int, layer: nn.Module) -> None:
        self.hidden_states, self.residual = layer(self.positions, self.hidden_states, self.residual)
        if index < len(self.deep):
            self.hidden_states = self.hidden_states + self.deep[index]

    def _stage(self, index: int, layer: nn.Module) -> None:
        """Shorten the rows of all batches; positions are kept, so each survivor carries its own."""
        if self.residual is not None:
            self.hidden_states, self.residual = self.hidden_states + self.residual, None
        self._look_ahead(index, layer)
        everything = self.origin
        if everything is None:
            everything = torch.arange(len(self.hidden_states), device=self.hidden_states.device)
        rows = list(self.hidden_states.split(self.counts))
        places = list(everything.split(self.counts))
        for batch in self.batches:
            shorter = batch.run.apply(index, batch.take(self.hidden_states))
            kept = batch.run.kept
            if kept is not None:
                kept = kept + to_device(batch.origins, kept.device)[:, None]
            for i, row in enumerate(batch.rows):
                rows[row] = shorter[i]
                if kept is not None:
                    places[row] = kept[i]
        self.counts = [len(row) for row in rows]
        expected = self.step.new(self.plan.segment(index)).tolist()
        if self.counts != expected:
            raise RuntimeError(
                f"a stage after {index} layers left {self.counts} tokens where {expected} were counted"
            )
        self.hidden_states, self.origin = torch.cat(rows), torch.cat(places)
        self.positions = self.all_positions.index_select(-1, self.origin)
        starts = _starts(self.counts)
        for batch in self.batches:
            batch.starts = [starts[row] for row in batch.rows]

    def _look_ahead(self, index: int, layer: nn.Module) -> None:
        """Let scorers that rank by the layer behind the stage see its query and key."""
        reading = [
            batch for batch in self.batches if needs_from(batch.run.needs(index), Source.NEXT_LAYER)
        ]
        if not reading:
            return
        seen = _stopped_at_attention(layer, self.positions, self.hidden_states)
        for batch in reading:
            batch.run.read_attention(index, self._view(batch, layer, *seen))

    def _view(
        self, batch: Batch, layer: nn.Module, query: torch.Tensor, key: torch.Tensor
    ) -> QueryKeyView:
        attention: Any = attention_of(layer)
        width = attention.head_size

        def heads(packed: torch.Tensor) -> torch.Tensor:
            return batch.take(packed).unflatten(-1, (-1, width)).transpose(1, 2)

        return QueryKeyView(
            heads(query.flatten(1)),
            heads(key.flatten(1)),
            attention.impl.scale,
            prompt_index(batch.layout, query.device),
            heads=self.engine.heads,
            drafts=batch.layout.drafts,
        )


def _starts(counts: Sequence[int]) -> list[int]:
    """The first row of each request."""
    return list(itertools.accumulate(counts, initial=0))[:-1]


def attention_of(layer: Any) -> Any:
    """The attention call of a decoder layer of the Llama shape."""
    return layer.self_attn.attn


def decoded(run: Pass, decoder: Any, rows: int) -> torch.Tensor:
    """`[rows, D]` of the whole decoder for a step that compresses.

    Rows of dropped tokens are zero: nothing is sampled from them. So is padding.
    """
    hidden, residual = run.run(decoder.layers)
    hidden, _ = decoder.norm(hidden, residual)
    full = hidden.new_zeros(rows, hidden.shape[-1])
    if run.origin is None:
        full[: len(hidden)] = hidden
        return full
    return full.index_copy_(0, run.origin, hidden)


class _Seen(Exception):
    """Query and key were seen, and the rest of the layer is not wanted."""


def _stopped_at_attention(
    layer: nn.Module, positions: torch.Tensor, hidden_states: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Query and key that a layer would compute; nothing is written to the cache."""
    found: list[tuple[torch.Tensor, torch.Tensor]] = []

    def stop(module: nn.Module, args: tuple[Any, ...]) -> None:
        found.append((args[0], args[1]))
        raise _Seen

    handle = attention_of(layer).register_forward_pre_hook(stop)
    try:
        layer(positions, hidden_states, None)
    except _Seen:
        pass
    finally:
        handle.remove()
    return found[0]
