"""PiToMe: tokens in dense regions merge, isolated ones are protected by an energy.

Tran et al., "Accelerating Transformers with Spectrum-Preserving Token Merging" (NeurIPS 2024,
arXiv 2405.16148); code: hchautran/PiToMe. A vision-transformer method; between decoder layers it is a
baseline of the LightKV paper, here at the same stages and with the same metric as `tome`.

Energy E_i = mean_j f_m(cos(x_i, x_j)), f_m(c) = c for c ≥ m, else α(exp(c − m) − 1), over the tokens of
the window, i itself included. The 2r tokens of largest energy alternate by rank: even ranks all merge
into their most similar odd rank. The paper has c above the margin, the code c − m.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from lightkv.core.contracts import MatchInput, ScoreInput, Scorer, StageContext
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe
from lightkv.strategies.components.bipartite import Bipartite
from lightkv.strategies.components.magnitude import unit
from lightkv.strategies.components.selection import rows
from lightkv.strategies.components.similarity import SIMILARITY_ELEMENTS, most_similar


class Energy(Scorer):
    """ξ_i = 1 − E_i ≥ 0: isolated tokens are important, those among their like are not.

    Attributes:
        branch: f_m above the margin: `paper` c, `code` c − m.
        alpha: α, weight of what lies below the margin.
        margin, slope: m = margin − slope · λ/layers of the model, with λ = after_layer. Outside a
            model m = margin. The code's values differ by model (0.9 to 0.75, slopes 0.9 to 0.25).
    """

    name = "energy"
    source = "PiToMe, arXiv 2405.16148, energy score"
    branch: Literal["paper", "code"] = "paper"
    alpha: float = Field(default=1.0, ge=0.0)
    margin: float = Field(default=0.9, ge=0.0, le=1.0)
    slope: float = Field(default=0.9, ge=0.0)

    def margin_at(self, context: StageContext) -> float:
        """The margin of a stage, not below 0."""
        depth = context.after_layer / context.num_layers if context.num_layers else 0.0
        return max(0.0, self.margin - self.slope * depth)

    def score(self, inputs: ScoreInput) -> torch.Tensor:
        margin = self.margin_at(inputs.context)
        batch, length, _ = inputs.hidden_states.shape
        near_one = unit(inputs.hidden_states)
        window = torch.full((batch * length,), -1, dtype=torch.long, device=near_one.device)
        label = inputs.sample if inputs.window is None else inputs.window
        window = window.scatter(0, inputs.vision, label).view(batch, length)
        step = max(1, SIMILARITY_ELEMENTS // max(1, batch * length))
        parts = []
        for first in range(0, length, step):
            run = slice(first, first + step)
            near = torch.matmul(near_one[:, run], near_one.transpose(1, 2))
            same = window[:, run, None] == window[:, None, :]
            total = torch.where(same, self._felt(near, margin), 0.0).sum(dim=-1)
            parts.append(total / same.sum(dim=-1).clamp(min=1))
        energy = torch.cat(parts, dim=1).flatten().index_select(0, inputs.vision)
        return (1.0 - energy).clamp(min=0.0)

    def _felt(self, near: torch.Tensor, margin: float) -> torch.Tensor:
        above = near if self.branch == "paper" else near - margin
        return torch.where(near >= margin, above, self.alpha * torch.expm1(near - margin))


class Ranked(Bipartite):
    """The 2r least important tokens alternate by rank; all even ranks merge, the rest is protected.

    Even ranks (from the least important, rank 0) flow into the most similar odd rank. Several may
    share one. Lower index is lower rank among equals, lower rank wins among equal similarities.
    """

    name = "ranked-bipartite"
    source = "PiToMe, arXiv 2405.16148, ordered energy-based bipartite matching"
    needs_score = True
    knows_inner = False

    def match(self, inputs: MatchInput) -> torch.Tensor:
        assert inputs.score is not None
        features = self.features(inputs)
        groups, population, _ = features.shape
        removed = population - inputs.keep
        order = torch.sort(inputs.score, dim=-1, stable=True).indices[:, : 2 * removed]
        source, into = order[:, 0::2], order[:, 1::2]
        _, nearest = most_similar(rows(features, source), rows(features, into))
        places = torch.arange(population, device=order.device).expand(groups, -1)
        return places.scatter(1, source, into.gather(1, nearest))


PRESET = PipelineSpec(
    name="pitome",
    source="Tran et al., NeurIPS 2024, arXiv 2405.16148",
    partitioner="whole",
    scorer="energy",
    matcher="ranked-bipartite",
    aggregator={"name": "weighted-mean", "weights": "size"},
    positions="keep",
    schedule=Recipe(windows=(None, None, None), ratio=0.5),
)
