"""DART: keep the tokens that are least like a few pivots; what duplicates a pivot goes.

Wen et al., "Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More"
(EMNLP 2025, arXiv 2502.11494); code: ZichenWen1/DART. One stage after layer K = 2. Pivots are the 4
vision tokens and the 4 tokens after the image with the largest L1 norm of their keys. Each pivot in
turn takes the tokens of lowest cosine to it that are left. Positions are kept.

The code compares outputs after the model's final norm, here it is the hidden states themselves: an RMS
norm without weight changes no cosine, so only the norm's weight per channel is missing. The code's
default, "128" of 576 tokens, keeps 132, which is retention 0.277 in 32 layers.
"""

from __future__ import annotations

import torch
from pydantic import Field

from lightkv.core.attention import AttentionView
from lightkv.core.contracts import Matcher, MatchInput, Surroundings
from lightkv.core.errors import ConfigError
from lightkv.core.needs import Need
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe
from lightkv.strategies.components.selection import descending, kept_only, rows
from lightkv.strategies.components.similarity import cosine


class Pivots(Matcher):
    """Keeps vision pivots and what is least similar to vision and text pivots; drops the rest.

    Of K survivors v = min(`vision_pivots`, K) are the pivots themselves. The other K − v are shared
    out to the pivots evenly, one more for the first (K − v) mod P of the P pivots. Pivots act in the
    order of their positions, vision before text. Each takes the tokens with the lowest cosine that
    nobody took. Where fewer text tokens than wanted stand after the image, the vision pivots of the
    first ranks act once more instead. Lower index wins among equals.

    Attributes:
        vision_pivots, text_pivots: how many of each.
        threshold: None: the stage's ratio decides and each pivot has its share (code). A number:
            keep a token if its cosine with every pivot is below it (paper); the stage's ratio is
            then the least that is removed, and the device is waited for. Where the ratio binds,
            the tokens with the lowest largest cosine stay.
    """

    name = "pivots"
    source = "DART, arXiv 2502.11494, pivot tokens and duplication"
    requires = frozenset({Need.KEYS})
    needs_surroundings = True
    drops = True
    vision_pivots: int = Field(default=4, ge=1)
    text_pivots: int = Field(default=4, ge=0)
    threshold: float | None = Field(default=None, ge=-1.0, le=1.0)

    @property
    def dynamic(self) -> bool:
        return self.threshold is not None

    def read_attention(self, attention: AttentionView) -> torch.Tensor:
        """`[B, N, 1]` L1 norm of each token's keys, all heads together."""
        return attention.heads.sum(attention.keys().float().abs().sum(dim=-1)).unsqueeze(-1)

    def count(self, inputs: MatchInput) -> torch.Tensor:
        assert self.threshold is not None
        pivots, likeness = self._compared(inputs)
        likeness = likeness.scatter(1, pivots, -torch.inf)
        alive = (likeness < self.threshold).sum(dim=1)
        return alive.clamp(max=inputs.keep)

    def match(self, inputs: MatchInput) -> torch.Tensor:
        if inputs.keep == 0:
            return torch.full_like(inputs.size, -1, dtype=torch.long)
        if self.threshold is not None:
            pivots, likeness = self._compared(inputs)
            # Pivots go first, the strongest of them foremost.
            first = torch.arange(pivots.shape[1], device=pivots.device).to(likeness.dtype) - 10.0
            likeness = likeness.scatter(1, pivots, first.expand(pivots.shape))
            order = torch.sort(likeness, dim=-1, stable=True).indices
            return kept_only(order[:, : inputs.keep], likeness.shape[1])
        pivots = self._strongest(inputs)[:, : inputs.keep]
        near = self._similarity(inputs, pivots.sort(dim=-1).values)
        return self._shared_out(near, pivots, inputs.keep)

    def _shared_out(self, near: torch.Tensor, pivots: torch.Tensor, keep: int) -> torch.Tensor:
        """Targets when each pivot takes its share of what `near` `[G, P, n]` says is far from it."""
        population, count = near.shape[2], near.shape[1]
        taken = torch.zeros_like(near[:, 0]).scatter(1, pivots, torch.inf)
        each, more = divmod(keep - pivots.shape[1], max(1, count))
        chosen = [pivots]
        for number in range(count):
            share = each + (number < more)
            order = torch.sort(near[:, number] + taken, dim=-1, stable=True).indices[:, :share]
            taken = taken.scatter(1, order, torch.inf)
            chosen.append(order)
        return kept_only(torch.cat(chosen, dim=1), population)

    def _strongest(self, inputs: MatchInput) -> torch.Tensor:
        """`[G, v]` places of the vision pivots, largest norm first."""
        if inputs.from_attention is None:
            raise ConfigError(
                "pivots are chosen by the keys of the layer before the stage",
                field=f"matcher {self.name!r}",
                remedy="use after_layer >= 1, or pass key to compress_stage",
            )
        return descending(inputs.from_attention[..., 0])[:, : self.vision_pivots]

    def _compared(self, inputs: MatchInput) -> tuple[torch.Tensor, torch.Tensor]:
        """Vision pivots `[G, v]`, and `[G, n]` largest cosine of each token with any pivot."""
        pivots = self._strongest(inputs)
        return pivots, self._similarity(inputs, pivots.sort(dim=-1).values).amax(dim=1)

    def _similarity(self, inputs: MatchInput, pivots: torch.Tensor) -> torch.Tensor:
        """`[G, P, n]` cosine of each pivot, `pivots` `[G, v]` and text, with each token."""
        near = cosine(rows(inputs.tokens, pivots), inputs.tokens)
        if self.text_pivots == 0 or pivots.shape[1] == 0:
            return near
        assert inputs.around is not None
        assert inputs.row is not None
        places, real = strongest_text(inputs.around, self.text_pivots)
        places, real = places[inputs.row], real[inputs.row]
        hidden = inputs.around.hidden_states[inputs.row[:, None], places]
        text = cosine(hidden, inputs.tokens)
        again = torch.arange(self.text_pivots, device=near.device) % pivots.shape[1]
        return torch.cat([near, torch.where(real[..., None], text, near[:, again])], dim=1)


def strongest_text(around: Surroundings, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions `[B, count]` of the text tokens after the image with the largest norms, ascending.

    Returns:
        the positions, and whether each is real; missing ones come last.
    """
    assert around.from_attention is not None
    valid = around.prompt.query_valid
    batch, length = valid.shape
    place = torch.arange(length, device=valid.device).expand(batch, -1)
    prompt = torch.zeros_like(place).scatter_add(
        1, around.prompt.index, around.prompt.valid.to(place.dtype)
    )
    last = torch.where(valid & (prompt == 0), place, -1).amax(dim=1, keepdim=True)
    after = (prompt > 0) & (place > last)
    norm = torch.where(after, around.from_attention[..., 0].float(), -1.0)
    # Wide enough for `count` pivots however short the row is.
    norm = torch.nn.functional.pad(norm, (0, count), value=-1.0)
    best = torch.sort(norm, dim=-1, descending=True, stable=True)
    real, places = best.values[:, :count] >= 0, best.indices[:, :count]
    order = torch.where(real, places, length + places).sort(dim=-1).values
    return torch.where(order < length, order, 0), order < length


PRESET = PipelineSpec(
    name="dart",
    source="Wen et al., EMNLP 2025, arXiv 2502.11494",
    partitioner={"name": "whole", "scope": "sample"},
    matcher="pivots",
    aggregator="drop",
    positions="keep",
    schedule=Recipe(windows=(None,), after_layer=2),
)
