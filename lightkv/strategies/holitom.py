"""HoliTom: merge over time what is static in the best cut of a clip, then choose of what is left.

Shao et al., "HoliTom: Holistic Token Merging for Fast Video Large Language Models" (NeurIPS 2025,
arXiv 2505.21334); cokeshao/HoliTom. Before the decoder:

1. A place is static in a segment of frames if its cosine from each frame to the next exceeds τ =
   0.8. Dynamic programming cuts the clip so that Σ (static places of a segment) · (its frames − 1)
   is largest.
2. The tokens of a static place of a segment become their mean, at the place of the first.
3. Of what is left every part keeps the same share: of the moving tokens of a frame the most
   attended; of the static places of a segment the centres of density peaks (7 neighbours), which
   the others join: x_centre ← β x_centre + (1 − β) · mean of those that joined, β = 0.6.

Kept: all of that, with a budget that holds: parts share it in proportion, the largest fractions
first, and if merging over time would remove more than is asked for, the least alike stay apart. Not
kept: the second half inside the decoder (layer 18 of 28, where the less attended half is merged),
which is a stage of its own: list it after this one. Of the moving tokens the released code merges
none by default, nor is any here. They are ranked by contrast inside their frame, because most video
models have no class token; `scorer: class-attention` takes the encoder's where it is offered. The
released code renumbers positions, by pruning before a decoder with one position for each token;
here they are kept, with the time of a frame. A still picture is one segment without anything
static: its most salient tokens stay.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field

from lightkv.core.contracts import Aggregator, Matcher, MatchInput, Merged, MergeInput
from lightkv.core.errors import ConfigError
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe
from lightkv.core.sizes import Flops, StageSizes
from lightkv.strategies.components.aggregators import weighted_sum
from lightkv.strategies.components.clusters import distances, peaks
from lightkv.strategies.components.frames import Film, paired_cosine
from lightkv.strategies.components.magnitude import largest, power_of_two
from lightkv.strategies.components.selection import (
    best,
    first_largest,
    kept_only,
    ranks,
    ranks_inside,
    rounded_keep,
)


@dataclass(frozen=True)
class Segments:
    """A cut of a clip.

    Attributes:
        start, end: `[G, T]` first and last frame of the segment of each frame.
        static: `[G, n]` whether a token's place is static in its segment.
    """

    start: torch.Tensor
    end: torch.Tensor
    static: torch.Tensor


class StaticSegments(Matcher):
    """Merges static places over time, then keeps salient tokens and centres in proportion.

    Lower index wins among equals, and shorter segments among cuts that are equally good.

    Attributes:
        similarity: τ; a cosine above it is static.
        neighbours: of which a density is made.
    """

    name = "static-segments"
    source = "HoliTom, arXiv 2505.21334, section 3.2"
    needs_score = True
    needs_cells = True
    similarity: float = Field(default=0.8, ge=-1.0, le=1.0)
    neighbours: int = Field(default=7, ge=1)

    def keep(self, population: int, ratio: float) -> int:
        return rounded_keep(population, ratio, "round")

    def match(self, inputs: MatchInput) -> torch.Tensor:
        assert inputs.score is not None
        film, tokens = Film.of(inputs), inputs.tokens.detach()
        population = tokens.shape[1]
        before = film.before()
        places = torch.arange(population, device=before.device).expand_as(before)
        near = paired_cosine(tokens, places, before.clamp(min=0))
        near = torch.where(before < 0, -torch.inf, near)
        cut = segments(film, near > self.similarity)
        first = film.row == cut.start.gather(1, film.row)
        # The most alike merge, as far as the budget asks for.
        joins = cut.static & ~first
        likeness = torch.where(joins, near, -torch.inf)
        joins = joins & (ranks(likeness) < population - inputs.keep)
        place = cut.start.gather(1, film.row) * film.index.shape[2]
        place = place + film.slot % film.index.shape[2]
        into = torch.where(joins, film.index.flatten(1).gather(1, place), places)
        head = cut.static & first
        kept, nearest = self._chosen(inputs, tokens, film, head, into)
        target = kept_only(kept, population)
        # A static place that is no centre joins one, and those that joined it go along.
        found = torch.where(nearest < 0, -1, target.gather(1, nearest.clamp(min=0)))
        target = torch.where(head & (target < 0), found, target)
        return torch.where(joins, target.gather(1, into), target)

    def _chosen(
        self,
        inputs: MatchInput,
        tokens: torch.Tensor,
        film: Film,
        head: torch.Tensor,
        into: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Survivors `[G, keep]`, and the nearest centre of the segment for each static place `[G, n]`.

        −1 where the segment has no centre.
        """
        assert inputs.score is not None
        own = into == torch.arange(into.shape[1], device=into.device)
        part = 2 * film.row + head.long()
        quota = proportional(part, own, inputs.keep, 2 * film.begins.shape[1])
        among = (film.spread(head) & film.real).flatten(0, 1)
        means = film.spread(_means(tokens, into)).flatten(0, 1)
        distance, scale = distances(torch.where(among.unsqueeze(-1), means, 0.0))
        peak = film.gathered(peaks(distance, scale, self.neighbours, among).view(film.real.shape))
        value = torch.where(head, peak, inputs.score.float())
        # What has merged stands behind all that are left of its part.
        place = ranks_inside(torch.where(own, value, -torch.inf), 2 * part + (~own).long())
        granted = own & (place < quota.gather(1, part))
        kept = best(inputs.score, 2 * granted.long() + own.long(), inputs.keep)
        alive = torch.zeros_like(own).scatter(1, kept, True) & head
        centres = (film.spread(alive) & film.real).flatten(0, 1)
        apart = torch.where(centres[:, None, :], -distance, -torch.inf)
        nearest = first_largest(apart).view(film.real.shape)
        row = torch.arange(film.real.shape[1], device=own.device)[None, :, None]
        flat = (row * film.real.shape[2] + nearest).flatten(1)
        token = film.index.flatten(1).gather(1, flat).view(film.real.shape)
        any_centre = centres.any(dim=-1).view(*film.real.shape[:2], 1)
        return kept, film.gathered(torch.where(any_centre, token, -1))

    def flops(self, sizes: StageSizes) -> Flops:
        """Each token is compared with one other; distances of static places as those of halves."""
        return sizes.similarities() + Flops(other=8 * sizes.width * sizes.vision)


def segments(film: Film, same: torch.Tensor) -> Segments:
    """The cut that merges most, where `same` `[G, n]` says that a token is as the one before it."""
    frames = film.begins.shape[1]
    number = torch.arange(frames, device=same.device)[None, :, None]
    alike = film.spread(same) & film.real
    # For how many frames, up to each one, its place has been the same.
    run = number - torch.where(alike, -1, number).cummax(dim=1).values
    run = torch.where(film.real, run, 0)
    length = _best_lengths(run)
    start, end = _bounds(length, film)
    static = run.gather(1, end.unsqueeze(-1).expand_as(run)) >= (end - start).unsqueeze(-1)
    static = static & (end > start).unsqueeze(-1)
    return Segments(start, end, film.gathered(static))


def _best_lengths(run: torch.Tensor) -> torch.Tensor:
    """`[G, T]` frames of the last segment in the best cut of the frames up to each one.

    A segment that ends at frame e and has w + 1 frames merges w tokens at each of the places whose
    `run` `[G, T, P]` at e is at least w.
    """
    groups, frames, _ = run.shape
    gains = [w * (run >= w).sum(dim=-1) for w in range(frames)]
    gain = torch.stack(gains, dim=1)
    best_up_to = torch.zeros(groups, frames + 1, dtype=torch.long, device=run.device)
    lengths = []
    for end in range(frames):
        # In the order of 1, 2, … frames, so that the shortest wins among equals.
        merged = best_up_to[:, : end + 1].flip(1) + gain[:, : end + 1, end]
        width = first_largest(merged)
        best_up_to[:, end + 1] = merged.gather(1, width[:, None])[:, 0]
        lengths.append(width + 1)
    return torch.stack(lengths, dim=1)


def _bounds(length: torch.Tensor, film: Film) -> tuple[torch.Tensor, torch.Tensor]:
    """`[G, T]` first and last frame of each frame's segment, followed back from the last frame."""
    frames = length.shape[1]
    opens = torch.zeros(length.shape[0], frames + 1, dtype=torch.long, device=length.device)
    at = film.count - 1
    for _ in range(frames):
        first = at - length.gather(1, at.clamp(min=0)) + 1
        opens = opens.scatter(1, torch.where(at >= 0, first, frames), 1)
        at = torch.where(at >= 0, first - 1, -1)
    number = torch.arange(frames, device=length.device)
    # Frames that a window does not have are segments of their own.
    begins = (opens[:, :frames] > 0) | ~film.exists
    start = torch.where(begins, number, 0).cummax(dim=1).values
    after = torch.full_like(number, frames).expand_as(start).clone()
    after[:, :-1] = torch.where(begins[:, 1:], number[1:], frames)
    return start, after.flip(1).cummin(dim=1).values.flip(1) - 1


def proportional(part: torch.Tensor, own: torch.Tensor, keep: int, parts: int) -> torch.Tensor:
    """`[G, parts]` shares of `keep` in proportion to the tokens `own` of each `part` `[G, n]`.

    Whole numbers whose sum is `keep`: the largest fractions are rounded up, the first among equals.
    """
    size = torch.zeros(part.shape[0], parts, dtype=torch.long, device=part.device)
    size = size.scatter_add(1, part, own.long())
    total = size.sum(dim=1, keepdim=True).clamp(min=1)
    quota, rest = keep * size // total, keep * size % total
    left = keep - quota.sum(dim=1, keepdim=True)
    return quota + (ranks(rest) < left).long()


def _means(tokens: torch.Tensor, into: torch.Tensor) -> torch.Tensor:
    """`[G, n, D]` at each token the mean in float32 of those that go `into` it `[G, n]`."""
    # Added up near 1, where no sum overflows.
    scale = power_of_two(largest(tokens, dim=(1, 2)))
    near = tokens.float() * scale
    index = into.unsqueeze(-1).expand_as(near)
    count = torch.zeros_like(into).scatter_add(1, into, torch.ones_like(into))
    sums = torch.zeros_like(near).scatter_add(1, index, near)
    return sums / count.clamp(min=1).unsqueeze(-1) / scale


class CentreMean(Aggregator):
    """x_s ← β x̄_s + (1 − β) · mean of the rest of the slot, x̄_s the mean at the survivor's own place.

    Without a rest the survivor is x̄_s; one that nobody joined is unchanged.

    Attributes:
        centre: β, the share of the survivor's own place.
    """

    name = "centre-mean"
    source = "HoliTom, arXiv 2505.21334, section 3.2 (spatial merging)"
    needs_cells = True
    centre: float = Field(default=0.6, ge=0.0, le=1.0)

    def merge(self, inputs: MergeInput) -> Merged:
        if inputs.cells is None:
            raise ConfigError(
                "this aggregator asks which place each token shows, and the input does not say",
                field="cells",
                remedy="give MergeInput the cells of its tokens, as a stage does",
            )
        flows, target = (inputs.target >= 0).float(), inputs.target.clamp(min=0)
        spot = inputs.cells.spots
        own = flows * (spot == spot.gather(1, target)).float()
        rest = flows - own
        owns = torch.zeros_like(flows).scatter_add(1, target, own).gather(1, target)
        rests = torch.zeros_like(flows).scatter_add(1, target, rest).gather(1, target)
        beta = 1.0 - (1.0 - self.centre) * (rests > 0).float()
        share = beta * own / owns.clamp(min=1.0) + (1.0 - beta) * rest / rests.clamp(min=1.0)
        return Merged(weighted_sum(inputs, share), share)


PRESET = PipelineSpec(
    name="holitom",
    source="Shao et al., NeurIPS 2025, arXiv 2505.21334",
    partitioner="whole",
    scorer="frame-contrast",
    matcher="static-segments",
    aggregator="centre-mean",
    positions="keep",
    schedule=Recipe(retention=0.25, after_layer=0, windows=(None,)),
)
