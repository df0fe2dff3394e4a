"""SparseVLM: prune by text tokens that look at the image, recycle some of the rest into clusters.

Zhang et al., "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference"
(ICML 2025, arXiv 2410.04417); code: Gumpest/SparseVLMs. Raters are the text tokens whose similarity to
the image, in the decoder's input, is above average. A vision token's score is the attention that the
raters pay to it. The best are kept; 30 % of the others are clustered by density peaks.

Stages after 3, 7 and 16 of 32 layers. Of 576 tokens 309, 204 and 113 are left there at retention 0.359
("192" in the paper counts what leaves a layer). The code has fixed counts and cluster means; the paper
counts by the rank of the attention (`budget: rank`), sums clusters (`aggregator: sum`) and assigns by
cosine (`assign: cosine`).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from lightkv.core.attention import AttentionView
from lightkv.core.contracts import (
    Aggregator,
    AttentionScorer,
    EmbeddingsInput,
    Matcher,
    MatchInput,
    Merged,
    MergeInput,
)
from lightkv.core.errors import ConfigError
from lightkv.core.needs import Need, Needs
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe
from lightkv.core.transfer import to_device
from lightkv.strategies.components.aggregators import weighted_sum
from lightkv.strategies.components.clusters import density_peaks, nearest_centre
from lightkv.strategies.components.magnitude import largest, power_of_two, scale_of
from lightkv.strategies.components.selection import descending, kept_only, rows
from lightkv.strategies.components.similarity import SIMILARITY_ELEMENTS

RANK_TOLERANCE = 1e-5
"""Singular values below this share of the largest count as 0: fixed, so that padding of the metric
(columns of zeros) does not move it."""


class TextRaters(AttentionScorer):
    """ξ_i = mean over rater tokens t and heads of P[h, t, i], in the layer before the stage.

    R = softmax over the text of (H_v H_tᵀ) at the decoder's input, r_t = mean of R over the vision
    tokens; t rates if r_t exceeds the mean of r. Text is what stands after the last vision token.
    Where nothing exceeds the mean (one text token), all text rates. Without text after the image,
    ξ = 0.

    Attributes:
        threshold: `strict`: r_t > mean (code); `inclusive`: r_t ≥ mean (paper).
    """

    name = "text-raters"
    source = "SparseVLM, arXiv 2410.04417, relevant text token selection"
    requires = frozenset({Need.EMBEDDINGS, Need.PROMPT_ROWS})
    threshold: Literal["strict", "inclusive"] = "strict"

    def read_embeddings(self, inputs: EmbeddingsInput) -> torch.Tensor:
        """`[B, P]` 1 at the prompt tokens that rate, else 0."""
        index, text = inputs.prompt.index, inputs.prompt.valid
        text = text & (index > inputs.last_vision[:, None])
        relevance = _relevance(inputs, text)
        count = text.sum(dim=1, keepdim=True).clamp(min=1)
        mean = relevance.sum(dim=1, keepdim=True) / count
        above = relevance > mean if self.threshold == "strict" else relevance >= mean
        above = above & text
        anyone = above.any(dim=1, keepdim=True)
        return torch.where(anyone, above, text).float()

    def read_attention(self, attention: AttentionView) -> torch.Tensor:
        if attention.from_embeddings is None:
            raise ConfigError(
                "raters are chosen from what enters the decoder, and that was not shown",
                field=f"scorer {self.name!r}",
                remedy="pass embeddings to compress_stage, or run it in a session",
            )
        raters = attention.from_embeddings
        valid = attention.prompt.query_valid
        total = torch.zeros(valid.shape, dtype=torch.float32, device=valid.device)
        heads = 0
        for block in attention.prompt_rows():
            weight = raters[:, block.columns]
            total = total + torch.einsum("bhpn,bp->bn", block.values, weight)
            heads = max(heads, block.heads.stop)
        count = raters.sum(dim=1, keepdim=True).clamp(min=1.0)
        return attention.heads.total(total / count) / max(1, heads * attention.heads.size)


def _relevance(inputs: EmbeddingsInput, text: torch.Tensor) -> torch.Tensor:
    """`[B, P]` mean over the vision tokens of the softmax over the text of their products."""
    hidden, vision = inputs.hidden_states, inputs.vision
    index = inputs.prompt.index
    total = torch.zeros(index.shape, dtype=torch.float32, device=hidden.device)
    if not index.shape[1]:
        return total
    words = rows(hidden, index).float()
    words = words.masked_fill(~text.unsqueeze(-1), 0.0)
    # Near 1, where no product overflows. Differences to the largest product take their size back.
    scale = power_of_two(largest(words, dim=(1, 2)))
    words = words * scale
    other, lowest = ~text[:, None, :], torch.finfo(words.dtype).min
    step = max(1, SIMILARITY_ELEMENTS // max(1, words.shape[0] * words.shape[1]))
    for first in range(0, hidden.shape[1], step):
        run = slice(first, first + step)
        own = scale_of(hidden[:, run])
        product = torch.matmul(hidden[:, run].float() * own, words.transpose(1, 2))
        top = product.masked_fill(other, lowest).amax(dim=-1, keepdim=True)
        # Hidden after the divisions, which would bring the lowest number back among the others.
        share = ((product - top) / own / scale).masked_fill(other, lowest).softmax(dim=-1)
        total = total + torch.where(vision[:, run, None], share, 0.0).sum(dim=1)
    mean = total / vision.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.where(text, mean, 0.0)


class Recycle(Matcher):
    """Keeps the top tokens, clusters the best of the rest, drops the others.

    `keep` counts kept tokens and clusters together: of K survivors of n tokens, T are kept as they
    are and C(n − T) are clusters, T the largest number with T + C = K. Of p pruned tokens the best
    m = ⌊recycled · p⌋ + 1 are clustered into C(p) = ⌊m/per_cluster⌋ + 1. The survivor of a cluster
    is its centre.

    Attributes:
        recycled: share of the pruned tokens that are clustered.
        per_cluster: recycled tokens for each cluster.
        assign: to the nearest centre by `euclidean` distance (code) or `cosine` (paper).
        budget: `fixed`: the stage's ratio (code). `rank`: T = n − ⌊scale · (n − rank P)⌋ with P the
            attention of the raters (or of all text) to the vision tokens, mean over heads (paper);
            the stage's ratio is then the least that is removed. Waits for the device.
        scale: λ of the paper, for `rank`.
    """

    name = "top-k-clusters"
    source = "SparseVLM, arXiv 2410.04417, sparsification and token recycling"
    needs_score = True
    recycled: float = Field(default=0.3, ge=0.0, le=1.0)
    per_cluster: int = Field(default=10, ge=1)
    assign: Literal["euclidean", "cosine"] = "euclidean"
    budget: Literal["fixed", "rank"] = "fixed"
    scale: float = Field(default=1.0, ge=0.0, le=1.0)

    def needs(self) -> Needs:
        return frozenset({Need.PROMPT_ROWS}) if self.budget == "rank" else frozenset()

    @property
    def dynamic(self) -> bool:
        return self.budget == "rank"

    def read_attention(self, attention: AttentionView) -> torch.Tensor | None:
        """`[B, N, P]` attention of each rater to each position, mean over heads."""
        if self.budget != "rank":
            return None
        prompt, state = attention.prompt, attention.from_embeddings
        count = prompt.index.shape[1]
        raters = prompt.valid.float()
        if state is not None and state.shape == raters.shape:
            raters = state
        shape = (*prompt.query_valid.shape, count)
        rows = torch.zeros(shape, dtype=torch.float32, device=raters.device)
        heads = 0
        for block in attention.prompt_rows():
            total = torch.einsum("bhpn,bp->bnp", block.values, raters[:, block.columns])
            rows[..., block.columns] += total
            heads = max(heads, block.heads.stop)
        return attention.heads.total(rows) / max(1, heads * attention.heads.size)

    def count(self, inputs: MatchInput) -> torch.Tensor:
        population = inputs.tokens.shape[1]
        if inputs.from_attention is None:
            raise ConfigError(
                "the rank budget reads the attention of the layer before the stage",
                field=f"matcher {self.name!r}, budget",
                value=self.budget,
                remedy="use after_layer >= 1, or budget: fixed",
            )
        rank = torch.linalg.matrix_rank(inputs.from_attention.float(), rtol=RANK_TOLERANCE)
        pruned = torch.floor(self.scale * (population - rank).float()).long()
        ends = [population - p + self.clusters(p) for p in range(1, population + 1)]
        survivors = to_device([population, *ends], rank.device)[pruned]
        return survivors.clamp(max=inputs.keep)

    def clusters(self, pruned: int) -> int:
        """C, clusters of `pruned` tokens."""
        return self._recycled(pruned) // self.per_cluster + 1

    def split(self, population: int, keep: int) -> tuple[int, int]:
        """(T kept, C clusters) for K = `keep` survivors."""
        for kept in range(keep - 1, -1, -1):
            clusters = self.clusters(population - kept)
            if kept + clusters == keep:
                return kept, clusters
        return 0, keep

    def _recycled(self, pruned: int) -> int:
        return min(pruned, int(self.recycled * pruned) + 1)

    def match(self, inputs: MatchInput) -> torch.Tensor:
        assert inputs.score is not None
        population = inputs.tokens.shape[1]
        order = descending(inputs.score)
        kept, clusters = self.split(population, inputs.keep)
        target = kept_only(order[:, :kept], population)
        if clusters == 0:
            return target
        count = max(clusters, self._recycled(population - kept))
        again = order[:, kept : kept + count]
        tokens = rows(inputs.tokens, again).float()
        centres = density_peaks(tokens, clusters)
        nearest = nearest_centre(tokens, centres, self.assign)
        return target.scatter(1, again, again.gather(1, nearest))


class Sum(Aggregator):
    """x_s ← Σ x_i over the tokens of slot s, the survivor included. Not a convex combination."""

    name = "sum"
    source = "SparseVLM, arXiv 2410.04417, token reconstruction (paper: element-wise sum)"
    convex = False

    def merge(self, inputs: MergeInput) -> Merged:
        share = (inputs.target >= 0).float()
        return Merged(weighted_sum(inputs, share), share)


PRESET = PipelineSpec(
    name="sparsevlm",
    source="Zhang et al., ICML 2025, arXiv 2410.04417",
    partitioner={"name": "whole", "scope": "sample"},
    scorer="text-raters",
    matcher="top-k-clusters",
    aggregator={"name": "weighted-mean", "weights": "uniform"},
    positions="renumber-contiguous",
    schedule=Recipe(
        windows=(None,),
        depths=(3 / 32, 7 / 32, 16 / 32),
        ratios=(1 - 309 / 576, 1 - 204 / 309, 1 - 113 / 204),
    ),
)
