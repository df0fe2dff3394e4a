"""Time in a clip: what changes from frame to frame, budgets frame by frame, windows as time × place.

Tokens of one view and one place show the same spot at different times. A still picture is one frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from pydantic import Field

from lightkv.core.cells import Cells
from lightkv.core.contracts import Matcher, MatchInput, ScoreInput, Scorer
from lightkv.core.errors import ConfigError
from lightkv.core.sizes import Flops, StageSizes
from lightkv.strategies.components.magnitude import unit
from lightkv.strategies.components.selection import (
    Rounding,
    best,
    kept_only,
    ranks_inside,
    rounded_keep,
)

RUN = 256
"""Tokens that are compared at a time, so that no copy of all of them is made."""
NEW = 3.0
"""Importance of what nothing came before: more than any 1 − cos, which is at most 2."""


# -- scorers -----------------------------------------------------------------------------------


class FrameContrast(Scorer):
    """ξ_i = 1 − cos(x_i, mean direction of its frame): what stands out in its frame is important.

    Reads no encoder, so it runs on every model. It stands in for the class token's attention where an
    encoder has none.
    """

    name = "frame-contrast"
    source = "this project: a stand-in for the encoder's attention, which many video models lack"

    def score(self, inputs: ScoreInput) -> torch.Tensor:
        return contrast(inputs)

    def flops(self, sizes: StageSizes) -> Flops:
        """Each token is added to a mean and compared with it."""
        return Flops(other=6 * sizes.width * sizes.vision)


class FrameChange(Scorer):
    """ξ_i = 1 − cos(x_i, x_j): how much token i differs from token j, at the same place and earlier.

    Where nothing came before (the first frame, or a token whose earlier ones are gone) a token is more
    important than any other, by how much it differs from the mean direction of its frame:
    ξ_i = 3 + contrast. A still picture is ranked by that alone.

    Attributes:
        group: None: j is the latest token before i that is left. g: frames are taken g at a time, and
            the one at place o of a group is compared with place o & (o − 1), so of four frames 1
            and 2 with 0, and 3 with 2 (DyCoke). The first frame of each group has nothing before it.
    """

    name = "frame-change"
    source = "EVS, arXiv 2510.14624, with the cosine of vLLM and SGLang; DyCoke, arXiv 2411.15024"
    group: int | None = Field(default=None, ge=2)

    def score(self, inputs: ScoreInput) -> torch.Tensor:
        new = NEW + contrast(inputs)
        if not new.numel():
            return new
        cells = inputs.cells
        earlier = latest_before(cells) if self.group is None else in_group(cells, self.group)
        rows = inputs.hidden_states.detach().flatten(0, 1)
        other = inputs.vision[earlier.clamp(min=0)]
        change = 1.0 - paired_cosine(rows[None], inputs.vision[None], other[None])[0]
        # Rounding may bring the cosine of equal tokens above 1.
        return torch.where(earlier < 0, new, change.clamp(min=0.0))

    def flops(self, sizes: StageSizes) -> Flops:
        """Each token is compared with an earlier one, and with the mean of its frame."""
        return Flops(other=12 * sizes.width * sizes.vision)


def contrast(inputs: ScoreInput) -> torch.Tensor:
    """`[V]` 1 − cosine of each token with the mean direction of its frame."""
    cells, vision = inputs.cells, inputs.vision
    rows = inputs.hidden_states.detach().flatten(0, 1)
    frame = cells.view * (cells.frames + 1) + cells.frame + 1
    assert inputs.layout is not None
    views = sum(len(sample.views) for sample in inputs.layout.samples)
    sums = torch.zeros(
        max(1, views) * (cells.frames + 1),
        rows.shape[1],
        dtype=torch.float32,
        device=rows.device,
    )
    for run in _runs(vision.numel()):
        sums = sums.index_add_(0, frame[run], unit(rows[vision[run]]))
    means, parts = unit(sums), [sums.new_zeros(0)]
    for run in _runs(vision.numel()):
        parts.append(1.0 - (unit(rows[vision[run]]) * means[frame[run]]).sum(dim=-1))
    return torch.cat(parts).clamp(min=0.0)


def latest_before(cells: Cells) -> torch.Tensor:
    """`[V]` the token at the same place that comes last before each in time, −1 if none does."""
    key = in_time(cells)
    order = torch.sort(key, stable=True).indices
    same = torch.zeros_like(order, dtype=torch.bool)
    spot = cells.spots[order]
    same[1:] = spot[1:] == spot[:-1]
    before = torch.where(same, order.roll(1), -1)
    return torch.empty_like(order).scatter(0, order, before)


def in_group(cells: Cells, group: int) -> torch.Tensor:
    """`[V]` the token at the same place in frame o & (o − 1) of the group of frames, −1 if none."""
    key = in_time(cells)
    ordered = torch.sort(key, stable=True)
    frame = cells.frame.clamp(min=0)
    offset = frame % group
    wanted = key - offset + (offset & (offset - 1))
    found = torch.searchsorted(ordered.values, wanted).clamp(max=key.numel() - 1)
    there = (ordered.values[found] == wanted) & (offset > 0)
    return torch.where(there, ordered.indices[found], -1)


def in_time(cells: Cells) -> torch.Tensor:
    """Sort keys: place by place, each in the order of time."""
    return cells.spots * cells.frames + cells.frame.clamp(min=0)


def paired_cosine(tokens: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`[G, k]` cosine of the tokens at `left` and at `right` `[G, k]` of `[G, n, D]`, pair by pair."""
    group = torch.arange(tokens.shape[0], device=tokens.device)[:, None]
    parts = [torch.zeros(left.shape[0], 0, dtype=torch.float32, device=tokens.device)]
    for run in _runs(left.shape[1]):
        one, other = tokens[group, left[:, run]], tokens[group, right[:, run]]
        parts.append((unit(one) * unit(other)).sum(dim=-1))
    return torch.cat(parts, dim=1)


def _runs(count: int) -> Iterator[slice]:
    return (slice(first, min(count, first + RUN)) for first in range(0, count, RUN))


# -- windows as time × place ---------------------------------------------------------------------


@dataclass(frozen=True)
class Film:
    """Windows `[G, n]` of one shape as T frames of P places.

    Frames are numbered from 0 without gaps, view after view. T and P follow from layouts alone, so a
    window may have fewer frames, and a frame fewer tokens.

    Attributes:
        row: `[G, n]` frame of each token, among those of its window.
        count: `[G, 1]` frames of each window.
        index: `[G, T, P]` token at each place, 0 where there is none.
        real: `[G, T, P]` whether there is one.
        begins: `[G, T]` true at the first frame of a view.
        frame: `[G, T]` number of each frame in its view.
        slot: `[G, n]` t · P + p of each token.
    """

    row: torch.Tensor
    count: torch.Tensor
    index: torch.Tensor
    real: torch.Tensor
    begins: torch.Tensor
    frame: torch.Tensor
    slot: torch.Tensor

    @classmethod
    def of(cls, inputs: MatchInput) -> Film:
        """The windows that a matcher with `needs_cells` is given."""
        cells = given_cells(inputs)
        groups, population = cells.frame.shape
        length = min(cells.views * cells.frames, population)
        # A separator stands behind the places of the first frame.
        frame = cells.frame.clamp(min=0)
        place = torch.where(cells.place < 0, cells.places, cells.place)
        view = cells.view - cells.view.amin(dim=1, keepdim=True)
        number = view * cells.frames + frame
        shape = (groups, cells.views * cells.frames)
        held = torch.zeros(shape, dtype=torch.long, device=frame.device).scatter(1, number, 1)
        row = (held.cumsum(dim=1) - 1).gather(1, number)
        width = cells.places + 1
        slot = row * width + place
        tokens = torch.arange(population, device=frame.device).expand(groups, -1)
        index = torch.full((groups, length * width), -1, dtype=torch.long, device=frame.device)
        index = index.scatter(1, slot, tokens).view(groups, length, width)
        blank = torch.zeros((groups, length), dtype=torch.long, device=frame.device)
        own = blank.scatter(1, row, view)
        begins = torch.ones_like(own, dtype=torch.bool)
        begins[:, 1:] = own[:, 1:] != own[:, :-1]
        return cls(
            row,
            held.sum(dim=1, keepdim=True),
            index.clamp(min=0),
            index >= 0,
            begins,
            blank.scatter(1, row, frame),
            slot,
        )

    @property
    def exists(self) -> torch.Tensor:
        """`[G, T]` whether a window has so many frames."""
        return torch.arange(self.begins.shape[1], device=self.row.device) < self.count

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """`[G, n]` (or `[G, n, D]`) → `[G, T, P]`; any values where there is no token."""
        groups, frames, places = self.index.shape
        flat = self.index.view(groups, -1)
        if values.dim() == 2:
            return values.gather(1, flat).view(groups, frames, places)
        rows = values.gather(1, flat.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
        return rows.view(groups, frames, places, -1)

    def gathered(self, values: torch.Tensor) -> torch.Tensor:
        """`[G, T, P]` → `[G, n]`."""
        return values.flatten(1).gather(1, self.slot)

    def before(self) -> torch.Tensor:
        """`[G, n]` the token at the same place, one frame earlier in the view; −1 if there is none."""
        index = torch.where(self.real, self.index, -1)
        shifted = torch.full_like(index, -1)
        shifted[:, 1:] = index[:, :-1]
        return self.gathered(torch.where(self.begins[..., None], -1, shifted))

    def sizes(self, chosen: torch.Tensor) -> torch.Tensor:
        """`[G, T]` how many of the tokens `chosen` `[G, n]` (true or false) each frame has."""
        return torch.zeros_like(self.frame).scatter_add(1, self.row, chosen.long())


def given_cells(inputs: MatchInput) -> Cells:
    """The cells of the windows.

    Raises:
        ConfigError: the input was made by hand, without any.
    """
    if inputs.cells is None:
        raise ConfigError(
            "this matcher asks which frame each token shows, and the input does not say",
            field="cells",
            remedy="give MatchInput the cells of its tokens, as a stage does",
        )
    return inputs.cells


def even_shares(total: torch.Tensor, among: torch.Tensor) -> torch.Tensor:
    """`[G, T]` shares of `total` `[G, 1]` for the frames `among` `[G, T]`; they differ by one at most.

    The first ones are the larger.
    """
    count = among.sum(dim=1, keepdim=True).clamp(min=1)
    place = among.long().cumsum(dim=1) - 1
    share = total // count + (place < total % count).long()
    return torch.where(among, share, 0)


# -- a budget for each frame -----------------------------------------------------------------------


class FrameShares(Matcher):
    """Keeps the most important tokens of each frame, as many of one as of another; drops the rest.

    With `group` every group-th frame of a view, from the first, is a reference: references are kept
    whole as far as the budget goes, and the others share what is left evenly. Shares that a frame
    cannot use go to the most important tokens of the window. Lower index wins among equals.

    Attributes:
        group: frames from one reference to the next; None: there are none.
        rounding: of the number kept.
    """

    name = "frame-shares"
    source = "DyCoke, arXiv 2411.15024, section 3.2 (token temporal merging)"
    needs_score = True
    needs_cells = True
    drops = True
    group: int | None = Field(default=None, ge=2)
    rounding: Rounding = "floor"

    def keep(self, population: int, ratio: float) -> int:
        return rounded_keep(population, ratio, self.rounding)

    def match(self, inputs: MatchInput) -> torch.Tensor:
        assert inputs.score is not None
        film = Film.of(inputs)
        reference = torch.zeros_like(film.begins)
        if self.group is not None:
            reference = (film.frame % self.group == 0) & film.exists
        held = film.sizes(torch.ones_like(film.row))
        whole = torch.where(reference, held, 0).sum(dim=1, keepdim=True)
        keep = torch.full_like(whole, inputs.keep)
        first = torch.where(
            whole <= keep, torch.where(reference, held, 0), even_shares(keep, reference)
        )
        left = (keep - whole).clamp(min=0)
        quota = first + even_shares(left, film.exists & ~reference)
        granted = ranks_inside(inputs.score, film.row) < quota.gather(1, film.row)
        return kept_only(best(inputs.score, granted.long(), inputs.keep), granted.shape[1])

    def flops(self, sizes: StageSizes) -> Flops:
        """None but for sorting: the scorer has compared."""
        return Flops()
