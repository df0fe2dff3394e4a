"""Random batches for property tests: layouts of every shape, tensors to go with them, and stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from lightkv.core.contracts import StageContext, WindowSpec
from lightkv.core.encoder import VisionView, layer_number
from lightkv.core.layout import SampleLayout, View, VisionLayout
from lightkv.core.modality import Share, most_removed
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe
from lightkv.core.stage.functional import compress_stage
from lightkv.core.stage.stage import Stage
from lightkv.core.stage.step import StageResult

WIDTH = 8
VISION_WIDTH = 6
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 4


@dataclass(frozen=True)
class SampleShape:
    """One prompt: text tokens before each image and at the end, and the images between.

    Attributes:
        texts: text tokens before each image; the last entry stands after all of them (0: the prompt
            ends in its image).
        grids: (frames, rows, columns, whether each row ends in a separator) of each image.
        modalities: what each of them shows; images if empty.
    """

    texts: tuple[int, ...]
    grids: tuple[tuple[int, int, int, bool], ...]
    modalities: tuple[str, ...] = ()

    def layout(self, pad: int = 0) -> tuple[SampleLayout, int]:
        """The sample behind `pad` positions of padding, and the length of its row."""
        views, cursor = [], pad
        for number, (text, grid) in enumerate(zip(self.texts, self.grids, strict=False)):
            cursor += text
            kind = self.modalities[number] if self.modalities else "image"
            view = View.from_span(cursor, grid[:3], image=number, newline=grid[3], modality=kind)
            cursor += view.positions.size
            views.append(view)
        return SampleLayout(tuple(views), pad), cursor + self.texts[-1]

    @property
    def length(self) -> int:
        return self.layout()[1]

    @property
    def ends_in_image(self) -> bool:
        """Whether a vision token holds the last position."""
        return bool(self.grids) and self.texts[-1] == 0


@dataclass(frozen=True)
class Case:
    """A batch with the windows and ratio of two stages.

    Attributes:
        shapes: one entry for each row.
        windows: `windows` entry of each stage.
        ratio: removed share of each stage, or modality → that of its tokens.
        seed: of the tensors.
    """

    shapes: tuple[SampleShape, ...]
    windows: tuple[WindowSpec, ...]
    ratio: Share
    seed: int

    @property
    def length(self) -> int:
        return max(shape.length for shape in self.shapes)

    def layout(self) -> VisionLayout:
        """The left-padded batch."""
        rows = tuple(shape.layout(self.length - shape.length)[0] for shape in self.shapes)
        return VisionLayout(self.length, rows)

    def single(self, row: int) -> VisionLayout:
        """A row of the batch on its own, without padding."""
        sample, length = self.shapes[row].layout()
        return VisionLayout(length, (sample,))

    def hidden(self, row: int | None = None) -> torch.Tensor:
        """`[B, N, D]` hidden states of the batch, or `[1, n, D]` of one row alone."""
        if row is not None:
            return drawn(self.seed * 1000 + row, 1, self.shapes[row].length, WIDTH)
        # What stands in the padding must not matter, so it is large.
        out = torch.full((len(self.shapes), self.length, WIDTH), 30.0, dtype=torch.float32)
        for number, shape in enumerate(self.shapes):
            out[number, self.length - shape.length :] = self.hidden(number)[0]
        return out


def drawn(seed: int, *shape: int) -> torch.Tensor:
    """Normal numbers on the host that follow from a seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32)


def attention(hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Query `[B, 4, N, 4]` and key `[B, 2, N, 4]` that follow from the hidden states alone."""
    batch, length, width = hidden.shape
    both = hidden @ drawn(7, width, (HEADS + KV_HEADS) * HEAD_DIM).to(hidden)
    both = both.view(batch, length, HEADS + KV_HEADS, HEAD_DIM).transpose(1, 2)
    return both[:, :HEADS], both[:, HEADS:]


class SyntheticVision(VisionView):
    """An encoder's view that follows from the tokens alone, so batches and single rows agree.

    Args:
        hidden: `[B, N, D]` before any stage.
        layout: their layout.
    """

    def __init__(self, hidden: torch.Tensor, layout: VisionLayout) -> None:
        self._tokens = hidden.reshape(-1, hidden.shape[-1])[layout.token_index(hidden.device).flat]
        views, count = [], 0
        for sample in layout.samples:
            views.append(count + sample.tokens.view)
            count += len(sample.views)
        self._view = torch.from_numpy(np.concatenate(views)).to(hidden.device)
        self._views = count

    def _mixed(self, seed: int, width: int) -> torch.Tensor:
        """`[V₀, width]` a fixed random projection of the tokens."""
        return self._tokens @ drawn(seed, self._tokens.shape[-1], width).to(self._tokens)

    def keys(self, layer: int | float) -> torch.Tensor:
        return (
            self._mixed(100 + _seed_of(layer), HEADS * HEAD_DIM)
            .unflatten(-1, (HEADS, HEAD_DIM))
            .detach()
        )

    def cls_query(self, layer: int | float) -> torch.Tensor:
        query = drawn(200 + _seed_of(layer), HEADS, HEAD_DIM).to(self._tokens)
        return query.expand(self._tokens.shape[0], -1, -1)

    def cls_attention(self, layer: int | float, *, split: bool = True) -> torch.Tensor:
        query, key = self.cls_query(layer).float(), self.keys(layer).float()
        if not split:
            query, key = query.flatten(1)[:, None], key.flatten(1)[:, None]
        mass = (0.2 * query * key).sum(dim=-1).clamp(-20, 20).exp()
        # The class token attends to itself with weight e⁰.
        total = mass.new_ones(self._views, mass.shape[1]).index_add(0, self._view, mass)
        return mass / total[self._view]

    def features(self) -> torch.Tensor:
        return self._mixed(300, VISION_WIDTH)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        weights = drawn(400, VISION_WIDTH, self._tokens.shape[-1])
        return torch.tanh(features @ weights.to(features)).to(self._tokens.dtype)


def _seed_of(layer: int | float) -> int:
    """What makes a layer's numbers its own; shares of the depth are those of an encoder of 24 layers."""
    return layer_number(layer, 24) if isinstance(layer, float) else layer


@dataclass(frozen=True)
class Step:
    """A stage of a chain with what went in and what came out.

    Attributes:
        number: of the stage in the chain, from 0.
    """

    stage: Stage
    hidden: torch.Tensor
    layout: VisionLayout
    result: StageResult
    number: int = 0


@dataclass(frozen=True)
class Chain:
    """Stages run one after the other on the same tokens, without layers between them."""

    steps: tuple[Step, ...]

    @classmethod
    def run(
        cls,
        stages: Sequence[Stage],
        hidden: torch.Tensor,
        layout: VisionLayout,
        *,
        run: int = 0,
        vision: VisionView | None = None,
        around: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> Chain:
        """All stages; each sees query and key made from the hidden states that reach it.

        Stages that read the vision encoder see `vision`, or one made from the tokens of the beginning.
        The decoder is as deep as there are stages, and one layer more, with a stage after each layer.
        Only the stages themselves run inside `around`.
        """
        steps: list[Step] = []
        size, vision = None, vision or SyntheticVision(hidden, layout)
        for number, stage in enumerate(stages):
            query, key = attention(hidden)
            context = StageContext(
                after_layer=number + 1,
                stage=number,
                run=run,
                num_layers=len(stages) + 1,
                ratio=most_removed(stage.ratio),
            )
            try:
                with around():
                    result = compress_stage(
                        hidden,
                        layout,
                        stage,
                        query=query,
                        key=key,
                        size=size,
                        vision=vision,
                        context=context,
                    )
            except Exception as error:
                error.add_note(f"Stage {number} of the chain (from 0) has {described(stage)}.")
                raise
            steps.append(Step(stage, hidden, layout, result, number))
            hidden, layout, size = result.hidden_states, result.layout, result.size
        return cls(tuple(steps))

    @property
    def last(self) -> StageResult:
        return self.steps[-1].result


def described(stage: Stage) -> str:
    """The components of a stage, for people."""
    parts = (stage.partitioner, *stage.components)
    return ", ".join(f"{part.role} {part.name!r}" for part in parts)


def stages_of(
    spec: PipelineSpec, windows: Sequence[WindowSpec], ratio: Share, **changes: object
) -> tuple[Stage, ...]:
    """A stage for each entry of `windows`, with the components that the spec has for that stage.

    `changes` replace roles in all of them.
    """
    own, last = spec.overrides, len(spec.overrides) - 1
    return tuple(
        Stage.from_roles(
            {**spec.roles(), **own[min(number, last)], **changes}, ratio=ratio, windows=window
        )
        for number, window in enumerate(windows)
    )


def windowed_stages(spec: PipelineSpec, count: int) -> tuple[bool, ...]:
    """For each of `count` stages whether the preset's own schedule says how many windows it has."""
    entries = spec.schedule
    listed = entries.windows if isinstance(entries, Recipe) else [e.windows for e in entries]
    said = [window is not None for window in listed] or [False]
    return tuple(said[min(number, len(said) - 1)] for number in range(count))


def takes_windows(spec: PipelineSpec) -> bool:
    """Whether the preset's own schedule says how many windows its first stage has, or a later one."""
    entries = spec.schedule
    count = len(entries.windows if isinstance(entries, Recipe) else entries)
    return any(windowed_stages(spec, max(1, count)))


# Strategies are made once: hypothesis checks each new one, which takes longer than to draw from it.


@cache
def grids(max_side: int = 7) -> st.SearchStrategy[tuple[int, int, int, bool]]:
    """(frames, rows, columns, separators): rectangles, strips of one row or column, videos."""
    # Hypothesis tries the first of each list oftener: a square in which windows have several tokens.
    side = st.sampled_from(sorted(range(2, max_side + 1), key=lambda side: side != 4))
    newline = st.sampled_from([False, False, True])
    strip = st.integers(1, 4 * max_side)
    return st.one_of(
        st.tuples(st.just(1), side, side, newline),
        st.one_of(
            st.tuples(st.just(1), st.just(1), strip, st.just(False)),
            st.tuples(st.just(1), st.integers(1, max_side), st.just(1), newline),
        ).map(tuple),
        st.tuples(st.integers(2, 3), st.integers(1, 4), st.integers(1, 4), newline),
    )


@cache
def recordings(most: int = 24) -> st.SearchStrategy[tuple[int, int, int, bool]]:
    """Grids of audio: tokens one after the other in time."""
    return st.tuples(st.integers(1, most), st.just(1), st.just(1), st.just(False))


@cache
def _shown(least: int, most: int, modalities: tuple[str, ...]) -> st.SearchStrategy[Any]:
    """From `least` to `most` images: text tokens before each, its grid and its modality."""
    one = st.one_of(
        *(
            st.tuples(
                st.integers(0, 3), recordings() if name == "audio" else grids(), st.just(name)
            )
            for name in modalities
        )
    )
    return st.lists(one, min_size=least, max_size=most)


@cache
def shapes(
    max_images: int = 2, modalities: tuple[str, ...] = ("image",), min_images: int = 0
) -> st.SearchStrategy[SampleShape]:
    """A prompt with `min_images` … `max_images` images and text; it may end in its last image."""

    def shape(drawn: tuple[Any, int]) -> SampleShape:
        images, last = drawn
        texts, grids, names = zip(*images, strict=True) if images else ((), (), ())
        return SampleShape((*texts, last if images else last + 1), grids, names)

    return st.tuples(_shown(min_images, max_images, modalities), st.integers(0, 3)).map(shape)


@cache
def ratios(most: float, modalities: tuple[str, ...] = ("image",)) -> st.SearchStrategy[Share]:
    """A removed share for all tokens or, where there are several modalities, for some of them.

    Most are not small: of the few tokens that are drawn a small share is none.
    """
    one = st.one_of(
        st.sampled_from([most, most / 2]),
        st.integers(1, 15).map(lambda parts: parts * most / 16),
        st.floats(0.01, most),
    )
    if len(modalities) < 2:
        return one
    own = st.dictionaries(st.sampled_from(list(modalities)), one, min_size=1)
    return st.one_of(one, own)


WITHOUT_IMAGES = 8
"""One of so many batches may be without any image, where a stage has nothing to do."""


@cache
def _batches(modalities: tuple[str, ...]) -> st.SearchStrategy[list[SampleShape]]:
    any_shape, with_images = shapes(modalities=modalities), shapes(2, modalities, 1)

    @st.composite
    def batch(draw: st.DrawFn) -> list[SampleShape]:
        if draw(st.integers(1, WITHOUT_IMAGES)) == WITHOUT_IMAGES:
            return draw(st.lists(any_shape, min_size=1, max_size=3))
        rows = draw(st.lists(any_shape, max_size=2))
        rows.insert(draw(st.integers(0, len(rows))), draw(with_images))
        return rows

    return batch()


SEEDS = st.integers(0, 10_000)


@st.composite
def cases(
    draw: st.DrawFn,
    *,
    windows: Sequence[WindowSpec] | None = None,
    windowed: bool | Sequence[bool] = True,
    temporal: bool = False,
    max_ratio: float = 0.5,
    stages: int = 2,
    modalities: Sequence[str] = ("image",),
) -> Case:
    """A batch of one to three prompts, in most of which a stage has something to do.

    Args:
        windows: fixed entries of the stages instead of drawn ones.
        windowed: whether the stages take a number of windows, or for each of them whether it does.
        temporal: whether windows over time are drawn too.
        max_ratio: largest share that a stage may remove; it is drawn itself now and then.
        stages: stages in the chain, unless `windowed` has an entry for each.
        modalities: what the prompts may show; with several, shares may be those of some of them.
    """
    kinds = tuple(modalities)
    rows = tuple(draw(_batches(kinds)))
    shown = [
        (grid, name) for row in rows for grid, name in zip(row.grids, row.modalities, strict=True)
    ]
    if windows is None:
        takes = (windowed,) * stages if isinstance(windowed, bool) else tuple(windowed)
        windows = draw(_windows(shown, takes, temporal))
    # Shares are first of all those of what is there.
    present = {name for _, name in shown}
    kinds = tuple(sorted(kinds, key=lambda kind: kind not in present))
    ratio = draw(ratios(min(max_ratio, 0.95), kinds))
    return Case(rows, tuple(windows), ratio, draw(SEEDS))


@st.composite
def _windows(
    draw: st.DrawFn,
    shown: list[tuple[tuple[int, int, int, bool], str]],
    windowed: tuple[bool, ...],
    temporal: bool,
) -> tuple[WindowSpec, ...]:
    """Windows per side that fit every grid and never grow, None where a stage takes none."""
    if not any(windowed):
        return (None,) * len(windowed)
    stages = len(windowed)
    sides = (grid[0] if name == "audio" else min(grid[1:3]) for grid, name in shown)
    spaces = _falling(draw, min([4, *sides]), stages)
    drawn: Sequence[WindowSpec] = spaces
    if temporal and draw(st.booleans()):
        times = _falling(draw, min([2, *(grid[0] for grid, _ in shown)]), stages)
        drawn = [{"space": s, "time": t} for s, t in zip(spaces, times, strict=True)]
    return tuple(each if takes else None for each, takes in zip(drawn, windowed, strict=True))


def _falling(draw: Callable[[st.SearchStrategy[int]], int], first: int, count: int) -> list[int]:
    out: list[int] = []
    for _ in range(count):
        # Two first, where they fit: see `grids`.
        first = draw(st.sampled_from(sorted(range(1, first + 1), key=lambda side: side != 2)))
        out.append(first)
    return out


def rows_of(counts: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """`[Σ counts]` row of each token that is counted over a batch."""
    return np.repeat(np.arange(len(counts)), counts)
