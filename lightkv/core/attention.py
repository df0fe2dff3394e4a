"""What a component may know of the attention call before its stage, without an `[H, N, N]` tensor.

A component declares what it needs (`lightkv.core.needs`). The session hands it an `AttentionView` from
inside the layer's own attention call; everything is computed from the query and key that are already
there, in blocks of a bounded size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from lightkv.core.errors import ConfigError
from lightkv.core.heads import HeadGroup
from lightkv.core.needs import Need
from lightkv.core.prompt import PromptIndex

BLOCK_ELEMENTS = 2**18
"""Logits formed at once, at least; more where the query itself is larger (see `_block`)."""
BLOCK_SHARE = 16
"""A block has at most this fraction of the query's elements, so its memory stays below theirs."""
CPU_BLOCK = 2**23
"""On a CPU a block has no more elements than this: larger ones are mapped anew, page by page, each time.
Much smaller ones read all queries for a few prompt columns (half of it: twice the time in bfloat16)."""


@dataclass(frozen=True)
class Block:
    """A block of an attention quantity, `values`, with the prompt columns it covers.

    The values belong to whoever asked for them and may be overwritten.

    `valid` `[B, P′]` is false where a row has fewer prompt tokens than the longest row. `columns`
    are the block's prompt tokens among all P. `heads` counts the heads of this process (see
    `AttentionView.heads`).
    """

    values: torch.Tensor
    valid: torch.Tensor
    heads: slice
    columns: slice = field(default_factory=lambda: slice(0, None))


class AttentionView(ABC):
    """Attention quantities of one layer, each computed only when asked for.

    Attributes:
        prompt: where the prompt tokens are.
        heads: reduces over heads. A tensor-parallel process holds only its share of them, so sums,
            means and maxima over heads must go through it.
        from_embeddings: what the scorer's `read_embeddings` returned at the beginning of this prefill,
            or None.
    """

    prompt: PromptIndex
    heads: HeadGroup
    from_embeddings: torch.Tensor | None = None

    @abstractmethod
    def prompt_logits(self) -> Iterator[Block]:
        """Blocks `[B, h, N, P′]` of the scaled logits before the mask; together all heads and prompt.

        The N values of a prompt column lie side by side where that is fast: work along N on the
        transposed view.
        """

    @abstractmethod
    def key_lse(self, heads: slice) -> torch.Tensor:
        """`[B, h, N]` log-sum-exp over all valid keys, before the mask, of each query."""

    @abstractmethod
    def prompt_rows(self) -> Iterator[Block]:
        """Blocks `[B, h, P′, N]` of causal attention probabilities, prompt tokens as queries."""

    @abstractmethod
    def last_row(self) -> torch.Tensor:
        """`[B, H, N]` causal attention probabilities of the last position."""

    @abstractmethod
    def keys(self) -> torch.Tensor:
        """`[B, Hₖᵥ, N, d]` keys of this forward's tokens."""

    @abstractmethod
    def column_sums(self) -> torch.Tensor:
        """`[B, H, N]` causal attention that each token receives, summed over the real queries."""


class QueryKeyView(AttentionView):
    """View over the query and key of a running attention call.

    Args:
        query: `[B, H, N, d]` after rotary embedding.
        key: `[B, Hₖᵥ, K, d]` with K ≥ N; the last N are this forward's tokens, earlier ones cached.
        scaling: factor of the logits.
        prompt: prompt positions.
        cached_valid: `[B, K − N]` false where a cached key is padding; None when all are real.
        softcap: logit cap of models that use one, else None.
        mask: `[B or 1, 1, N, K]` of the call, true (or 0 as float) where attention is allowed, for
            layers that are not simply causal; None is the causal mask.
        heads: the processes that share the heads, this one alone by default.
        drafts: positions at the end that are guesses of what comes after the prompt (assisted
            decoding). Nothing is scored by them.
        weights: `[B, K]` added to the logits of each key (sizes of merged tokens), None for nothing.
    """

    def __init__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        scaling: float,
        prompt: PromptIndex,
        *,
        cached_valid: torch.Tensor | None = None,
        softcap: float | None = None,
        mask: torch.Tensor | None = None,
        heads: HeadGroup | None = None,
        drafts: int = 0,
        weights: torch.Tensor | None = None,
    ) -> None:
        self.prompt = prompt.without_last(drafts) if drafts else prompt
        self._drafts = drafts
        self.heads = heads or HeadGroup()
        self._query = query.detach()
        self._all_keys = key.detach()
        self._scaling = scaling
        self._softcap = softcap
        self._groups = query.shape[1] // key.shape[1]
        self._cached_valid = cached_valid
        self._mask = mask
        self._weights = 0.0 if weights is None else weights[:, None, None, None, :]
        self._lse: tuple[slice, torch.Tensor] | None = None

    @property
    def _block(self) -> int:
        share = self._query.numel() // BLOCK_SHARE
        if self._query.device.type == "cpu":
            share = min(share, CPU_BLOCK)
        return max(BLOCK_ELEMENTS, share)

    @property
    def _length(self) -> int:
        return self._query.shape[2]

    def _logits(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """`[B, g, h′, Q, K]` × grouped keys `[B, g, K, d]` → float32 logits, heads not expanded."""
        # Scaled before the product, which could overflow in half precision otherwise.
        query = query * self._scaling
        return self._capped(torch.matmul(query, key.unsqueeze(2).transpose(-1, -2)).float())

    def _capped(self, logits: torch.Tensor) -> torch.Tensor:
        if self._softcap is None:
            return logits
        return torch.tanh(logits / self._softcap) * self._softcap

    def _head_blocks(self, elements_per_group: int) -> Iterator[tuple[int, int]]:
        groups = self._all_keys.shape[1]
        step = max(1, min(groups, self._block // max(1, elements_per_group)))
        for start in range(0, groups, step):
            yield start, min(groups, start + step)

    def _grouped_query(self, start: int, stop: int) -> torch.Tensor:
        """`[B, g, heads per group, N, d]` queries of the key heads start … stop − 1."""
        batch, _, length, width = self._query.shape
        per = self._groups
        query = self._query[:, start * per : stop * per]
        return query.reshape(batch, stop - start, per, length, width)

    def _prompt_chunks(self, per_column: int) -> Iterator[tuple[int, int]]:
        count = self.prompt.index.shape[1]
        step = max(1, min(count, self._block // max(1, per_column)))
        # Chunks of even size: a last one of a few columns would read all queries for little.
        step = -(-count // -(-count // step)) if count else 1
        for start in range(0, count, step):
            yield start, min(count, start + step)

    def prompt_logits(self) -> Iterator[Block]:
        batch = self._query.shape[0]
        rows = batch * self._groups * self._length
        # The few prompt keys are scaled instead of all queries, before a product that could overflow
        # in half precision. Columns are rows in memory, so that a softmax over N reads along them.
        keys = _take(self.keys(), self.prompt.index) * self._scaling
        chunks = list(self._prompt_chunks(rows))
        widest = max((last - first for first, last in chunks), default=0)
        for start, stop in self._head_blocks(rows * widest):
            queries = self._grouped_query(start, stop).transpose(-1, -2)
            for first, last in chunks:
                key = keys[:, start:stop, None, first:last]
                logits = self._capped(torch.matmul(key, queries).float())
                yield Block(
                    logits.flatten(1, 2).transpose(-1, -2),
                    self.prompt.valid[:, first:last],
                    slice(start * self._groups, stop * self._groups),
                    slice(first, last),
                )

    def key_lse(self, heads: slice) -> torch.Tensor:
        # Blocks of one prompt follow each other with the same heads.
        if self._lse is None or self._lse[0] != heads:
            self._lse = heads, self._key_lse(heads)
        return self._lse[1]

    def _key_lse(self, heads: slice) -> torch.Tensor:
        start, stop = heads.start // self._groups, heads.stop // self._groups
        query, key = self._grouped_query(start, stop), self._all_keys[:, start:stop]
        batch, length, count = query.shape[0], self._length, key.shape[2]
        valid = self._key_valid()[:, None, None, None, :]
        step = max(1, self._block // max(1, batch * (heads.stop - heads.start) * count))
        parts = []
        for first in range(0, length, step):
            logits = self._logits(query[:, :, :, first : first + step], key) + self._weights
            parts.append(logits.masked_fill(~valid, -torch.inf).logsumexp(-1))
        return torch.cat(parts, dim=-1).flatten(1, 2)

    def prompt_rows(self) -> Iterator[Block]:
        batch, _, count, _ = self._all_keys.shape
        for first, last in self._prompt_chunks(batch * self._groups * count):
            index = self.prompt.index[:, first:last]
            for start, stop in self._head_blocks(batch * self._groups * (last - first) * count):
                probabilities = self._causal_rows(index, start, stop)
                yield Block(
                    probabilities.flatten(1, 2)[..., -self._length :],
                    self.prompt.valid[:, first:last],
                    slice(start * self._groups, stop * self._groups),
                    slice(first, last),
                )

    def last_row(self) -> torch.Tensor:
        batch, _, count, _ = self._all_keys.shape
        last = self._length - 1 - self._drafts
        index = torch.full((batch, 1), last, dtype=torch.long, device=self._query.device)
        parts = [
            self._causal_rows(index, start, stop).flatten(1, 2)[:, :, 0, -self._length :]
            for start, stop in self._head_blocks(batch * self._groups * count)
        ]
        return torch.cat(parts, dim=1)

    def keys(self) -> torch.Tensor:
        return self._all_keys[:, :, -self._length :]

    def column_sums(self) -> torch.Tensor:
        batch, _, count, _ = self._all_keys.shape
        real = self.prompt.query_valid
        sums = []
        for start, stop in self._head_blocks(batch * self._groups * count):
            heads = batch * (stop - start) * self._groups
            step = max(1, self._block // max(1, heads * count))
            total = torch.zeros(1, dtype=torch.float32, device=real.device)
            for first in range(0, self._length, step):
                rows = torch.arange(first, min(first + step, self._length), device=real.device)
                index = rows.expand(batch, -1)
                weight = real[:, first : first + step].float()[:, None, None, :, None]
                block = self._causal_rows(index, start, stop) * weight
                total = total + block.sum(dim=3)
            sums.append(total.flatten(1, 2)[..., -self._length :])
        return torch.cat(sums, dim=1)

    def _key_valid(self) -> torch.Tensor:
        """`[B, K]` false where a key, cached or new, is padding."""
        new = self.prompt.query_valid
        past = self._all_keys.shape[2] - self._length
        if past == 0:
            return new
        cached = self._cached_valid
        if cached is None:
            cached = new.new_ones((new.shape[0], past))
        return torch.cat([cached, new], dim=1)

    def _causal_rows(self, index: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """`[B, g, h′, R, K]` probabilities of the queries at `index` `[B, R]` under the causal mask."""
        query = self._grouped_query(start, stop)
        rows = index[:, None, None, :, None].expand(*query.shape[:3], -1, query.shape[-1])
        logits = self._logits(query.gather(3, rows), self._all_keys[:, start:stop])
        logits = logits + self._weights
        allowed = self._allowed(index)
        logits = logits.masked_fill(~allowed[:, None, None], torch.finfo(logits.dtype).min)
        return logits.softmax(-1)

    def _allowed(self, index: torch.Tensor) -> torch.Tensor:
        """`[B, R, K]` keys that the queries at `index` `[B, R]` attend to."""
        count = self._all_keys.shape[2]
        if self._mask is not None:
            mask = self._mask[:, 0].expand(index.shape[0], -1, -1)
            rows = mask.gather(1, index[..., None].expand(-1, -1, count))
            return rows if rows.dtype == torch.bool else rows > torch.finfo(rows.dtype).min / 2
        place = torch.arange(count, device=index.device) - (count - self._length)
        return (place <= index[..., None]) & self._key_valid()[:, None, :]


class TensorView(AttentionView):
    """View over attention tensors that the caller already has (`compress_stage` without a model)."""

    def __init__(self, prompt: PromptIndex, tensors: dict[Need, torch.Tensor]) -> None:
        self.prompt = prompt
        self.heads = HeadGroup()
        self._tensors = tensors

    def _get(self, need: Need) -> torch.Tensor:
        if need not in self._tensors:
            raise ConfigError(
                f"the stage needs {str(need)!r}, which was not given",
                field=str(need),
                remedy=f"pass {ARGUMENT_OF[need]} to compress_stage",
            )
        return self._tensors[need]

    def prompt_logits(self) -> Iterator[Block]:
        logits = self._get(Need.PROMPT_LOGITS)
        for head in range(logits.shape[1]):
            block = logits[:, head : head + 1].to(torch.float32, copy=True)
            yield Block(block, self.prompt.valid, slice(head, head + 1))

    def key_lse(self, heads: slice) -> torch.Tensor:
        return self._get(Need.KEY_LSE)[:, heads].float()

    def prompt_rows(self) -> Iterator[Block]:
        rows = self._get(Need.PROMPT_ROWS)
        yield Block(rows.float(), self.prompt.valid, slice(0, rows.shape[1]))

    def last_row(self) -> torch.Tensor:
        return self._get(Need.LAST_ROW).float()

    def keys(self) -> torch.Tensor:
        return self._get(Need.KEYS)

    def column_sums(self) -> torch.Tensor:
        return self._get(Need.COLUMN_SUMS).float()


ARGUMENT_OF = {
    Need.PROMPT_LOGITS: "attention_logits [B, H, N, P] (or query and key)",
    Need.KEY_LSE: "query [B, H, N, d] and key [B, Hkv, N, d]",
    Need.PROMPT_ROWS: "query [B, H, N, d] and key [B, Hkv, N, d]",
    Need.LAST_ROW: "last_row [B, H, N] (or query and key)",
    Need.KEYS: "key [B, Hkv, N, d]",
    Need.COLUMN_SUMS: "query [B, H, N, d] and key [B, Hkv, N, d]",
}


def _take(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`[B, g, N, d]` at `index` `[B, P]` → `[B, g, P, d]`."""
    spread = index[:, None, :, None].expand(-1, values.shape[1], -1, values.shape[-1])
    return values.gather(2, spread)
