"""FastVID: cut the clip where it changes, keep what is salient, let dense tokens stand for the rest.

Shen et al., "FastVID: Dynamic Density Pruning for Fast Video Large Language Models" (NeurIPS 2025,
arXiv 2503.11187); LunarShen/FastVID.

1. DySeg: a segment begins at the c − 1 = 7 transitions between frames of lowest cosine and at those
   below τ = 0.9.
2. ATS: of the budget the share 1 − d (d = 0.4) goes to the most attended tokens, the same number in
   each frame.
3. DTM: in each segment every p-th frame from the last one backwards (p = 4) is an anchor frame.
   Anchor frames share what the frames of their segment have left; the tokens with the highest
   density × distance (4 neighbours, inside the frame) are centres. All others of the segment join
   the most similar centre.
4. x_centre ← β x_centre + (1 − β) · mean of its group, itself included, with β = max(0.6, 1/(size +
   1)).

Kept: all of that, with a budget that holds: shares differ by one token at most, and what anchor
frames cannot hold (at high retention) goes to the most salient tokens. Each token joins one centre
of its segment; in the code it joins one in each anchor frame. Frames are described by their tokens'
mean and salience is contrast inside the frame, because most video models have no class token;
`scorer: class-attention` takes the encoder's where it is offered. A still picture is one segment
whose only frame is its anchor: salient tokens and centres.
"""

from __future__ import annotations

import torch
from pydantic import Field

from lightkv.core.contracts import Aggregator, Matcher, MatchInput, Merged, MergeInput
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe
from lightkv.core.sizes import Flops, StageSizes
from lightkv.strategies.components.aggregators import weighted_sum
from lightkv.strategies.components.clusters import distances, peaks
from lightkv.strategies.components.frames import Film, even_shares
from lightkv.strategies.components.magnitude import largest, power_of_two, unit
from lightkv.strategies.components.selection import (
    best,
    descending,
    first_largest,
    kept_only,
    ranks_inside,
    rounded_keep,
    rows,
)
from lightkv.strategies.components.similarity import EXCLUDED, cosine_runs


class SegmentDensity(Matcher):
    """Keeps salient tokens of each frame and centres of each segment, which the others join.

    A token whose segment has no centre is dropped. Lower index wins among equals.

    Attributes:
        segments: c, the least number of segments (if there are so many frames).
        similarity: τ; a cosine of adjacent frames below it begins a segment too.
        context: d, share of the survivors that are centres.
        step: p, from one anchor frame to the next.
        neighbours: of which a density is made.
    """

    name = "segment-density"
    source = "FastVID, arXiv 2503.11187, section 3"
    needs_score = True
    needs_cells = True
    segments: int = Field(default=8, ge=1)
    similarity: float = Field(default=0.9, ge=-1.0, le=1.0)
    context: float = Field(default=0.4, ge=0.0, le=1.0)
    step: int = Field(default=4, ge=1)
    neighbours: int = Field(default=4, ge=1)

    def keep(self, population: int, ratio: float) -> int:
        return rounded_keep(population, ratio, "round")

    def match(self, inputs: MatchInput) -> torch.Tensor:
        assert inputs.score is not None
        film, tokens = Film.of(inputs), inputs.tokens.detach()
        segment = self.cuts(tokens, film).long().cumsum(dim=1) - 1
        total = torch.full_like(film.count, inputs.keep)
        salient = total - int(inputs.keep * self.context + 1e-9)
        quota = even_shares(salient, film.exists)
        chosen = ranks_inside(inputs.score, film.row) < quota.gather(1, film.row)
        left = total - chosen.sum(dim=1, keepdim=True)
        quota = self._anchored(even_shares(left, film.exists), segment, film)
        peak = self._peaks(tokens, film, ~chosen)
        centre = ranks_inside(peak, film.row) < quota.gather(1, film.row)
        centre = centre & ~chosen
        kept = best(inputs.score, (chosen | centre).long(), inputs.keep)
        own = segment.gather(1, film.row)
        return _joined(kept_only(kept, chosen.shape[1]), tokens, centre, own, inputs.keep)

    def cuts(self, tokens: torch.Tensor, film: Film) -> torch.Tensor:
        """`[G, T]` true at the frames that begin a segment."""
        groups, frames = film.begins.shape
        scale = power_of_two(largest(tokens, dim=(1, 2)))
        sums = torch.zeros(
            groups, frames, tokens.shape[-1], dtype=torch.float32, device=tokens.device
        )
        index = film.row.unsqueeze(-1).expand_as(tokens)
        features = unit(sums.scatter_add(1, index, tokens.float() * scale))
        near = torch.full_like(sums[..., 0], torch.inf)
        near[:, 1:] = (features[:, 1:] * features[:, :-1]).sum(dim=-1)
        near = torch.where(film.begins | ~film.exists, torch.inf, near)
        place = torch.zeros_like(film.frame)
        order = torch.sort(near, dim=-1, stable=True).indices
        numbers = torch.arange(frames, device=near.device).expand_as(order)
        place = place.scatter(1, order, numbers)
        lowest = (place < self.segments - 1) & (near < torch.inf)
        return film.begins | lowest | (near < self.similarity)

    def _anchored(self, share: torch.Tensor, segment: torch.Tensor, film: Film) -> torch.Tensor:
        """`[G, T]` centres of each anchor frame, of `share` `[G, T]` that each frame brings."""
        exists = film.exists.long()
        total = torch.zeros_like(share).scatter_add(1, segment, share)
        count = torch.zeros_like(share).scatter_add(1, segment, exists)
        first = (torch.zeros_like(share).scatter_add(1, segment, exists).cumsum(dim=1)) - count
        place = torch.arange(share.shape[1], device=share.device) - first.gather(1, segment)
        # Counted from the last frame of the segment backwards.
        back = count.gather(1, segment) - 1 - place
        anchors = (count + self.step - 1) // self.step
        anchor = film.exists & (back % self.step == 0)
        number = anchors.gather(1, segment) - 1 - back // self.step
        each = anchors.clamp(min=1).gather(1, segment)
        whole = total.gather(1, segment)
        quota = whole // each + (number < whole % each).long()
        return torch.where(anchor, quota, 0)

    def _peaks(self, tokens: torch.Tensor, film: Film, among: torch.Tensor) -> torch.Tensor:
        """`[G, n]` density × distance of each token among those of its frame, −∞ for others."""
        packed = film.spread(tokens).flatten(0, 1)
        free = (film.spread(among) & film.real).flatten(0, 1)
        distance, scale = distances(torch.where(free.unsqueeze(-1), packed, 0).float())
        peak = peaks(distance, scale, self.neighbours, free)
        return film.gathered(peak.view(film.real.shape))

    def flops(self, sizes: StageSizes) -> Flops:
        """Distances inside a frame are counted as those of alternating halves of the window."""
        return sizes.similarities()


def _joined(
    target: torch.Tensor,
    tokens: torch.Tensor,
    centre: torch.Tensor,
    segment: torch.Tensor,
    most: int,
) -> torch.Tensor:
    """`target` `[G, n]` where what is dropped joins the most similar of at most `most` centres."""
    centre = centre & (target >= 0)
    listed = descending(centre.float())[:, :most]
    if not listed.shape[1]:
        return target
    real, of = centre.gather(1, listed), segment.gather(1, listed)
    parts = []
    for run, near in cosine_runs(tokens, rows(tokens, listed)):
        fits = real[:, None, :] & (segment[:, run, None] == of[:, None, :])
        near = torch.where(fits, near, near - EXCLUDED)
        to = listed.gather(1, first_largest(near))
        parts.append(torch.where(fits.any(dim=-1), to, -1))
    return torch.where(target < 0, torch.cat(parts, dim=1), target)


class AnchoredMean(Aggregator):
    """x_s ← β x_s + (1 − β) · mean of the slot, itself included, β = max(`anchor`, 1/(size + 1)).

    A survivor that nobody joined is unchanged.

    Attributes:
        anchor: least share that the survivor has beside the mean.
    """

    name = "anchored-mean"
    source = "FastVID, arXiv 2503.11187, section 3.3 (anchor-centric aggregation)"
    anchor: float = Field(default=0.6, ge=0.0, le=1.0)

    def merge(self, inputs: MergeInput) -> Merged:
        places = torch.arange(inputs.target.shape[1], device=inputs.target.device)
        flows, own = (inputs.target >= 0).float(), (inputs.target == places).float()
        target = inputs.target.clamp(min=0)
        count = torch.zeros_like(flows).scatter_add(1, target, flows).gather(1, target)
        beta = (1.0 / (count + 1.0)).clamp(min=self.anchor)
        share = flows * (1.0 - beta) / count.clamp(min=1.0) + own * beta
        share = torch.where((own > 0) & (count == 1.0), 1.0, share)
        return Merged(weighted_sum(inputs, share), share)


PRESET = PipelineSpec(
    name="fastvid",
    source="Shen et al., NeurIPS 2025, arXiv 2503.11187",
    partitioner="whole",
    scorer="frame-contrast",
    matcher="segment-density",
    aggregator="anchored-mean",
    positions="keep",
    schedule=Recipe(retention=0.25, after_layer=0, windows=(None,)),
)
