"""Importances read off the attention of the layer before a stage, as swappable scorers."""

from __future__ import annotations

from typing import Literal

import torch

from lightkv.core.attention import AttentionView, Block
from lightkv.core.contracts import AttentionScorer
from lightkv.core.needs import Need, Needs


class PromptAttention(AttentionScorer):
    """ξ_i = Σ_heads Σ_{j ∈ prompt} A[h, i, j]: the vision token as query, the prompt token as key.

    A is taken before the causal mask; the prompt is every non-vision token.

    Attributes:
        normalize: `queries`: A is the softmax of each prompt column over all tokens of the
            sequence (the authors' released code; the default). `keys`: the softmax of each row
            over all keys (the paper's attention formula); costs one pass over all key blocks.
    """

    name = "prompt-attention"
    source = "LightKV, arXiv 2605.00789, prompt guidance (released code: softmax over queries)"
    normalize: Literal["queries", "keys"] = "queries"

    def needs(self) -> Needs:
        extra = {Need.KEY_LSE} if self.normalize == "keys" else set()
        return frozenset({Need.PROMPT_LOGITS} | extra)

    def read_attention(self, attention: AttentionView) -> torch.Tensor:
        valid = attention.prompt.query_valid
        total = torch.zeros(valid.shape, dtype=torch.float32, device=valid.device)
        for block in attention.prompt_logits():
            share = self._normalised(attention, block).sum(dim=1)
            # Columns beyond a row's prompt may overflow (`keys`), and infinity times 0 is NaN.
            total = total + torch.where(block.valid[:, :, None], share, 0.0).sum(dim=1)
        return attention.heads.total(torch.where(valid, total, 0.0))

    def _normalised(self, attention: AttentionView, block: Block) -> torch.Tensor:
        """`[B, h, P′, N]` attention of the block."""
        values = block.values.transpose(2, 3)
        if self.normalize == "keys":
            return values.sub_(attention.key_lse(block.heads).unsqueeze(2)).exp_()
        if attention.prompt.padded:
            queries = attention.prompt.query_valid[:, None, None, :]
            # The lowest finite number keeps a row of pure padding free of NaN.
            values.masked_fill_(~queries, torch.finfo(values.dtype).min)
        return values.softmax(dim=-1)


class CausalAttention(AttentionScorer):
    """ξ_i = Σ_heads Σ_{j ∈ prompt} P[h, j, i]: attention that the prompt pays to the token.

    P is the model's own causal attention, so only prompt tokens after the image count.
    """

    name = "causal-attention"
    source = "text-to-vision attention as in SparseVLM, arXiv 2410.04417, without rater selection"
    requires = frozenset({Need.PROMPT_ROWS})

    def read_attention(self, attention: AttentionView) -> torch.Tensor:
        valid = attention.prompt.query_valid
        total = torch.zeros(valid.shape, dtype=torch.float32, device=valid.device)
        for block in attention.prompt_rows():
            rows = block.values.sum(dim=1)
            total = total + torch.where(block.valid[:, :, None], rows, 0.0).sum(dim=1)
        return attention.heads.total(total)


class WeightedCausalAttention(AttentionScorer):
    """ξ_i = Σ_j w_j · mean_h P[h, j, i], w_j = mean_h P[h, last, j]: two steps of attention.

    As `causal-attention`, but a prompt token counts as much as the last token attends to it, so words
    that carry the question weigh more than those that hold the sentence together.
    """

    name = "weighted-causal-attention"
    source = "this project: attention of the last token, rolled out by one step over the prompt"
    requires = frozenset({Need.PROMPT_ROWS, Need.LAST_ROW})

    def read_attention(self, attention: AttentionView) -> torch.Tensor:
        prompt = attention.prompt
        weight = attention.heads.mean(attention.last_row()).gather(1, prompt.index)
        weight = torch.where(prompt.valid, weight, 0.0)
        total = torch.zeros(prompt.query_valid.shape, dtype=torch.float32, device=weight.device)
        for block in attention.prompt_rows():
            rows = block.values.sum(dim=1)
            total = total + (rows * weight[:, block.columns, None]).sum(dim=1)
        return attention.heads.total(total)


class LastToken(AttentionScorer):
    """ξ_i = mean over heads of the attention that the last token pays to token i."""

    name = "last-token"
    source = "FastV, arXiv 2403.06764, section 4 (released code: last row only)"
    requires = frozenset({Need.LAST_ROW})

    def read_attention(self, attention: AttentionView) -> torch.Tensor:
        return attention.heads.mean(attention.last_row())
