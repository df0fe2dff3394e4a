"""Where the vision tokens of a batch sit and which cell of which image each one covers.

A `VisionLayout` is host data (NumPy): everything that decides a shape is known before the first
decoder layer runs. After a stage the *places* of the survivors depend on values, so a layout then
also carries a `TokenIndex` of tensors; its counts and window populations stay host data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from lightkv.core.cells import SEPARATOR as SEPARATOR
from lightkv.core.cells import Cells, cells_of
from lightkv.core.errors import LayoutError
from lightkv.core.modality import MODALITIES, in_order
from lightkv.core.spans import checked_grid, checked_pads, checked_span
from lightkv.core.transfer import all_to_device, to_device

IntArray = npt.NDArray[np.int64]
T = TypeVar("T")
Grid = tuple[int, int, int]
"""(frames, rows, columns); an image has one frame, audio one row and one column."""

Bands = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""For each axis of a grid the band that every coordinate belongs to; windows are products of bands."""


@dataclass(frozen=True, eq=False)
class View:
    """One rectangular grid of cells and the sequence positions that show it.

    Attributes:
        grid: (frames, rows, columns).
        positions: `[n]` ascending sequence positions of the view's vision tokens.
        cells: `[n]` raster cell index of each token, or `SEPARATOR`.
        image: number of the image (video, recording) in its sample that the view belongs to.
        modality: what it shows, one of `MODALITIES`. The grid of audio is (tokens, 1, 1).
    """

    grid: Grid
    positions: IntArray
    cells: IntArray
    image: int = 0
    modality: str = "image"

    @classmethod
    def from_span(
        cls,
        start: int,
        grid: Grid,
        *,
        image: int = 0,
        newline: bool = False,
        modality: str = "image",
    ) -> View:
        """A contiguous raster view; with `newline` each row is followed by one separator token."""
        frames, rows, columns = checked_grid(grid)
        cells = np.arange(frames * rows * columns, dtype=np.int64).reshape(frames * rows, columns)
        if newline:
            breaks = np.full((frames * rows, 1), SEPARATOR, dtype=np.int64)
            cells = np.concatenate([cells, breaks], axis=1)
        flat = cells.reshape(-1)
        positions = start + np.arange(flat.size, dtype=np.int64)
        return cls((frames, rows, columns), positions, flat, image, modality)

    @property
    def coordinates(self) -> IntArray:
        """`[n, 3]` (frame, row, column) of each token, −1 for separators."""
        _, rows, columns = self.grid
        cells = self.cells
        out = np.stack(
            [cells // (rows * columns), cells // columns % rows, cells % columns], axis=1
        )
        out[cells < 0] = SEPARATOR
        return out.astype(np.int64)


@dataclass(frozen=True, eq=False)
class SampleLayout:
    """The views of one sample and how much of its row is left padding."""

    views: tuple[View, ...] = ()
    pad: int = 0

    @cached_property
    def positions(self) -> IntArray:
        """`[V]` ascending sequence positions of all vision tokens of the sample."""
        if not self.views:
            return np.zeros(0, dtype=np.int64)
        return np.sort(np.concatenate([view.positions for view in self.views]))

    def end(self, text: int) -> int:
        """The last position of the row if it holds `text` tokens that are no vision."""
        return self.pad + text + int(self.positions.size) - 1

    @cached_property
    def tokens(self) -> TokenTable:
        """Per vision token, in sequence order: image, view, coordinates and modality."""
        if not self.views:
            empty = np.zeros(0, dtype=np.int64)
            return TokenTable(empty, empty, np.zeros((0, 3), dtype=np.int64), empty)
        order = np.argsort(np.concatenate([v.positions for v in self.views]), kind="stable")
        view = np.concatenate([np.full(v.positions.size, i) for i, v in enumerate(self.views)])
        image = np.concatenate([np.full(v.positions.size, v.image) for v in self.views])
        coordinates = np.concatenate([v.coordinates for v in self.views])
        kinds = np.array([MODALITIES.index(v.modality) for v in self.views], dtype=np.int64)
        return TokenTable(
            image[order].astype(np.int64),
            view[order].astype(np.int64),
            coordinates[order],
            kinds[view[order]],
        )

    @cached_property
    def modalities(self) -> tuple[str, ...]:
        """What its views show, in the order of `MODALITIES`."""
        return in_order(view.modality for view in self.views)


@dataclass(frozen=True, eq=False)
class TokenTable:
    """What each vision token of a sample shows.

    Attributes:
        image, view: `[V]` numbers in the sample.
        coordinates: `[V, 3]`.
        modality: `[V]` place in `MODALITIES`.
    """

    image: IntArray
    view: IntArray
    coordinates: IntArray
    modality: IntArray

    @property
    def separator(self) -> npt.NDArray[np.bool_]:
        """`[V]` true where the token shows no patch."""
        return np.asarray(self.coordinates[:, 0] < 0)


@dataclass(frozen=True, eq=False)
class Groups:
    """What is known on the host about the survivors of one sample.

    Attributes:
        label: `[V₀]` group of each *original* vision token. How many survivors a group holds is
            known; which of its tokens they are is not.
        population: `[number of groups]` survivors in each group.
        bands: per view the band of each coordinate when groups are products of bands, else None.
    """

    label: IntArray
    population: IntArray
    bands: tuple[Bands | None, ...]

    @classmethod
    def singletons(cls, sample: SampleLayout) -> Groups:
        """Before the first stage every token is a group of its own."""
        count = sample.positions.size
        bands = tuple(
            (tuple(range(v.grid[0])), tuple(range(v.grid[1])), tuple(range(v.grid[2])))
            for v in sample.views
        )
        return cls(np.arange(count, dtype=np.int64), np.ones(count, dtype=np.int64), bands)

    def owners(self, label: IntArray) -> IntArray:
        """`[number of groups]` of a label `[V₀]` of the original tokens: that of each group."""
        owner = np.zeros(self.population.size, dtype=np.int64)
        owner[self.label] = label
        return owner

    def totals(self, label: IntArray, count: int) -> IntArray:
        """`[count]` survivors under each label, of labels `[V₀]` that cut through no group."""
        total = np.zeros(count, dtype=np.int64)
        np.add.at(total, self.owners(label), self.population)
        return total


@dataclass(frozen=True, eq=False)
class VisionLayout:
    """Vision tokens of a batch: geometry, current counts and, after a stage, current places.

    Attributes:
        length: N, the physical length of every row of the batch.
        samples: the geometry of the *original* inputs, one entry for each row.
        groups: what is known of the survivors of each row.
        pads: current left padding of each row.
        index: places of the survivors; None before the first stage, where they follow from
            `samples`.
        drafts: positions at the end of every row that are no part of the prompt (assisted decoding).
        facts: what was derived from the host data, so that it is derived once (see `once`).
    """

    length: int
    samples: tuple[SampleLayout, ...]
    groups: tuple[Groups, ...] = field(default=())
    pads: tuple[int, ...] = field(default=())
    index: TokenIndex | None = None
    drafts: int = 0
    facts: dict[Hashable, Any] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.groups:
            object.__setattr__(
                self, "groups", tuple(Groups.singletons(sample) for sample in self.samples)
            )
            object.__setattr__(self, "pads", tuple(sample.pad for sample in self.samples))
            for row, sample in enumerate(self.samples):
                check_sample(row, sample, None if self.length == UNKNOWN_LENGTH else self.length)

    # -- construction -------------------------------------------------------------------------

    @classmethod
    def from_spans(
        cls,
        spans: Sequence[Sequence[tuple[int, Grid] | tuple[int, Grid, str]]],
        *,
        length: int | None = None,
        pads: Sequence[int] | None = None,
    ) -> VisionLayout:
        """A layout from `(start, (frames, rows, columns))` of each image, for each sample.

        Args:
            spans: per sample a list of images; starts count from the beginning of the row,
                left padding included. A third entry is the modality, `image` by default:
                `(start, (tokens, 1, 1), "audio")`.
            length: N. Without it the layout adopts the length of the first tensor it is used
                with (`with_length`).
            pads: left padding of each row, 0 by default.

        Raises:
            LayoutError: spans outside the sequence, overlapping, an impossible grid, or a modality
                that there is not.
        """
        samples = []
        for row, (images, pad) in enumerate(
            zip(spans, checked_pads(pads, len(spans)), strict=True)
        ):
            views = []
            for number, image in enumerate(images):
                start, grid, modality = checked_span(f"spans[{row}][{number}]", image)
                views.append(View.from_span(start, grid, image=number, modality=modality))
            samples.append(SampleLayout(tuple(views), pad))
        return cls(UNKNOWN_LENGTH if length is None else int(length), tuple(samples))

    def with_length(self, length: int) -> VisionLayout:
        """This layout for rows of `length` positions; checks that every span fits.

        Raises:
            LayoutError: the layout was made for another length or a span ends beyond it.
        """
        if self.length == length:
            return self
        if self.length != UNKNOWN_LENGTH:
            raise LayoutError(
                f"the layout is for rows of {self.length} positions but the tensor has {length}",
                field="layout",
                value=self.length,
                remedy="pass the layout that belongs to these hidden states",
            )
        return VisionLayout(length, self.samples, drafts=self.drafts)

    def with_drafts(self, drafts: int) -> VisionLayout:
        """This layout (before any stage) where the last `drafts` positions are no prompt."""
        return VisionLayout(self.length, self.samples, drafts=drafts) if drafts else self

    def for_rows(self, pads: Sequence[int]) -> VisionLayout:
        """This layout for a batch whose rows have the given left padding.

        A batch of a multiple of its rows repeats each row, as beams and `num_return_sequences` do.
        A layout made without padding takes the padding that is given.

        Raises:
            LayoutError: another number of rows, other padding, or spans inside the padding.
        """
        rows, times = self.batch_size, len(pads) // max(1, self.batch_size)
        if times < 1 or times * rows != len(pads):
            raise LayoutError(
                f"the layout is for {rows} samples but the batch has {len(pads)}",
                field="layout",
                value=rows,
                remedy="give one entry for each row of the batch",
            )
        repeated = [sample for sample in self.samples for _ in range(times)]
        own = tuple(sample.pad for sample in repeated)
        if own == tuple(pads):
            return self if times == 1 else VisionLayout(self.length, tuple(repeated))
        if any(own):
            raise LayoutError(
                f"the layout says left padding {own}, the attention mask {tuple(pads)}",
                field="layout",
                value=own,
                remedy="leave `pads` out of the layout, or give the real ones",
            )
        samples = (SampleLayout(s.views, int(pad)) for s, pad in zip(repeated, pads, strict=True))
        return VisionLayout(self.length, tuple(samples))

    # -- host facts ---------------------------------------------------------------------------

    @property
    def batch_size(self) -> int:
        return len(self.samples)

    def once(self, name: Hashable, make: Callable[[], T]) -> T:
        """What `make` derives from the host data alone, kept under `name` (with the device, if any).

        Layouts that a session meets again and again share what is kept: leave it unchanged.
        """
        if name not in self.facts:
            # Made in inference mode, a table could not serve a later pass that records gradients.
            with torch.inference_mode(False):
                self.facts[name] = make()
        return self.facts[name]  # type: ignore[no-any-return]

    @property
    def vision_counts(self) -> tuple[int, ...]:
        """Current vision tokens of each row."""
        return self.once(
            "vision", lambda: tuple(int(group.population.sum()) for group in self.groups)
        )

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the views of all rows show, in the order of `MODALITIES`."""
        return in_order(name for sample in self.samples for name in sample.modalities)

    @property
    def counts_by_modality(self) -> tuple[dict[str, int], ...]:
        """Modality → current vision tokens, of each row; those that a row never had are left out."""
        return self.once("by modality", self._by_modality)

    def _by_modality(self) -> tuple[dict[str, int], ...]:
        found = []
        for sample, groups in zip(self.samples, self.groups, strict=True):
            totals = groups.totals(sample.tokens.modality, len(MODALITIES))
            counts = dict(zip(MODALITIES, map(int, totals), strict=True))
            found.append({name: counts[name] for name in sample.modalities})
        return tuple(found)

    @property
    def original_counts(self) -> tuple[int, ...]:
        """Vision tokens of each row before any stage."""
        return tuple(int(sample.positions.size) for sample in self.samples)

    @property
    def text_counts(self) -> tuple[int, ...]:
        """Non-vision, non-padding positions of each row."""
        return tuple(
            self.length - pad - count
            for pad, count in zip(self.pads, self.vision_counts, strict=True)
        )

    @property
    def pinned(self) -> tuple[bool, ...]:
        """Of each row whether a vision token holds its last prompt position: no stage touches that."""
        return self.once(
            "pinned",
            lambda: tuple(
                bool(np.isin(sample.end(text) - self.drafts, sample.positions))
                for sample, text in zip(self.samples, self.text_counts, strict=True)
            ),
        )

    @property
    def key(self) -> str:
        """Digest of all host data: equal keys mean equal shapes and equal index tables."""
        return self.once("key", self._digest)

    def _digest(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((self.length, self.pads, self.drafts)).encode())
        for sample, group in zip(self.samples, self.groups, strict=True):
            for view in sample.views:
                digest.update(repr((view.grid, view.image, view.modality)).encode())
                digest.update(view.positions.tobytes() + view.cells.tobytes())
            digest.update(group.label.tobytes() + group.population.tobytes())
            digest.update(repr(group.bands).encode())
        return digest.hexdigest()

    # -- tensors ------------------------------------------------------------------------------

    def token_index(self, device: torch.device) -> TokenIndex:
        """Places of the current vision tokens on `device`."""
        if self.index is not None:
            return self.index.to(device)
        host = self.once("index", lambda: initial_index(self.samples, self.length))
        return self.once(("index", device), lambda: host.to(device))

    def cells(self, device: torch.device) -> Cells:
        """`[V₀]` which cell of which frame each original vision token shows, on `device`."""
        host = self.once("cells", lambda: cells_of(self.samples))
        return self.once(("cells", device), lambda: all_to_device(host, device))

    def vision_mask(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """`[B, N]` true at the current vision tokens."""
        device = torch.device(device)
        mask = torch.zeros(self.batch_size * self.length, dtype=torch.bool, device=device)
        flat = self.token_index(device).flat
        mask = mask.index_fill(0, flat, True)
        return mask.view(self.batch_size, self.length)

    def valid_mask(self, device: torch.device | str = "cpu") -> torch.Tensor:
        """`[B, N]` false at left padding."""
        device = torch.device(device)
        places = torch.arange(self.length, device=device)
        return self.once(
            ("valid", device), lambda: places[None, :] >= self.pad_counts(device)[:, None]
        )

    def pad_counts(self, device: torch.device) -> torch.Tensor:
        """`[B]` current left padding of each row."""
        return self.once(("pads", device), lambda: to_device(self.pads, device))

    def evolved(
        self,
        length: int,
        groups: tuple[Groups, ...],
        pads: tuple[int, ...],
        index: TokenIndex,
        facts: dict[Hashable, Any] | None = None,
    ) -> VisionLayout:
        """The layout after a stage; `facts` are those of an earlier one with the same host data."""
        after = replace(self, length=length, groups=groups, pads=pads, index=index)
        if facts is not None:
            object.__setattr__(after, "facts", facts)
        return after


UNKNOWN_LENGTH = -1


@dataclass(frozen=True)
class TokenIndex:
    """Value-dependent places of the current vision tokens of a batch, sample after sample.

    Attributes:
        flat: `[V]` positions in the flattened batch, `sample · N + position`, ascending.
        origin: `[V]` number of the original vision token (counted over the batch) whose place
            and position each one holds.
        text: `[T]` flat positions of everything else that is not left padding, ascending.
    """

    flat: torch.Tensor
    origin: torch.Tensor
    text: torch.Tensor

    def to(self, device: torch.device) -> TokenIndex:
        return all_to_device(self, device)


def initial_index(samples: Sequence[SampleLayout], length: int) -> TokenIndex:
    """The index before any stage, on the host: it follows from the samples, rows of `length`."""
    flat, text = [], []
    for row, sample in enumerate(samples):
        offset = row * length
        flat.append(offset + sample.positions)
        everything = np.arange(sample.pad, length, dtype=np.int64)
        text.append(offset + np.setdiff1d(everything, sample.positions, assume_unique=True))
    places = torch.from_numpy(np.concatenate(flat))
    return TokenIndex(
        flat=places,
        origin=torch.arange(places.numel()),
        text=torch.from_numpy(np.concatenate(text)),
    )


def check_sample(row: int, sample: SampleLayout, length: int | None) -> None:
    """Raise `LayoutError` unless the views fit their grids, each other and the row."""
    where = f"spans[{row}]"
    for number, view in enumerate(sample.views):
        _check_view(f"{where}[{number}]", view)
    positions = sample.positions
    if positions.size == 0:
        return
    twice = positions[:-1][np.diff(positions) == 0]
    if twice.size:
        raise LayoutError(
            "two images claim the same position",
            field=where,
            value=int(twice[0]),
            remedy="give each image its own span",
        )
    if positions[0] < sample.pad:
        raise LayoutError(
            f"an image starts at {int(positions[0])}, before the row's own tokens, which follow "
            f"{sample.pad} positions of padding",
            field=where,
            value=int(positions[0]),
            remedy="count starts from the beginning of the row, left padding included",
        )
    if length is not None and positions[-1] >= length:
        raise LayoutError(
            f"an image ends at position {int(positions[-1])} but the sequence has {length}",
            field=where,
            value=int(positions[-1]),
            remedy=f"spans must lie in 0 … {length - 1}; check start and grid",
        )


def check_modality(where: str, view: View) -> None:
    """Raise `LayoutError` unless the view shows something known, on a grid of its kind."""
    if view.modality not in MODALITIES:
        raise LayoutError(
            "there is no such modality",
            field=where,
            value=view.modality,
            remedy=f"use one of: {', '.join(MODALITIES)}",
        )
    if view.modality == "audio" and view.grid[1:] != (1, 1):
        raise LayoutError(
            "audio has tokens one after the other in time, and neither rows nor columns",
            field=where,
            value=view.grid,
            remedy=f"its grid is (tokens, 1, 1), here {(int(np.prod(view.grid)), 1, 1)}",
        )


def _check_view(where: str, view: View) -> None:
    frames, rows, columns = checked_grid(view.grid)
    check_modality(where, view)
    count = frames * rows * columns
    cells = view.cells[view.cells >= 0]
    if view.cells.size != view.positions.size:
        problem, value = "each position shows one cell or separator", int(view.positions.size)
    elif cells.size and int(cells.max()) >= count:
        problem, value = f"a grid of {view.grid} has cells 0 … {count - 1}", int(cells.max())
    elif cells.size and int(np.bincount(cells).max()) > 1:
        problem, value = "a cell is shown twice", int(cells[np.argmax(np.bincount(cells))])
    elif np.any(np.diff(view.positions) <= 0):
        problem, value = "positions of cells must ascend", view.positions.tolist()
    else:
        return
    raise LayoutError(
        problem, field=where, value=value, remedy="View.from_span makes a raster view of a span"
    )
