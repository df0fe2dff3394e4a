"""What a pipeline saves on a decoder of given sizes: counted from the layout, without a model.

Token counts come from the same `Stage.plan` that a session uses, so rounding is the real one; FLOPs
and bytes follow the conventions of `lightkv.core.cost.flops`. Of n generated tokens the prefill gives
the first, so n − 1 decode steps are counted and the cache ends with prompt + n − 1 tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from lightkv.core.cost.flops import DecoderShape, cache_flops, equal_layers, read_layer
from lightkv.core.errors import ConfigError
from lightkv.core.layout import SEPARATOR, Grid, SampleLayout, View, VisionLayout
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.core.sizes import Flops

MOST_TOKENS = 4_000_000
"""Vision tokens, and text tokens, of a prompt that is laid out: its tables take some hundred MB."""
MOST_STEPS = 100_000
"""Generated tokens that are counted, step by step."""


@dataclass(frozen=True)
class ViewSize:
    """The size of one view.

    Attributes:
        grid: (frames, rows, columns).
        newline: each row is followed by one token that shows no patch.
        cells: tokens that show a patch, in raster order, where the last row is not full; None
            for a full grid.
        leading: tokens before the first row that show no patch (class tokens).
        modality: what it shows; the grid of audio is (tokens, 1, 1).
    """

    grid: Grid
    newline: bool = False
    cells: int | None = None
    leading: int = 0
    modality: str = "image"

    @classmethod
    def of_count(cls, tokens: int) -> ViewSize:
        """The most compact raster of `tokens` cells: a square whose last row may be short."""
        columns = math.isqrt(max(tokens - 1, 0)) + 1
        rows = -(-tokens // columns)
        return cls((1, rows, columns), cells=None if rows * columns == tokens else tokens)

    @property
    def tokens(self) -> int:
        """Vision tokens of the view, newlines and class tokens included."""
        frames, rows, columns = self.grid
        if self.cells is not None:
            return self.leading + self.cells
        return self.leading + frames * rows * (columns + int(self.newline))

    def view(self, start: int, image: int = 0) -> View:
        """The view at sequence position `start`."""
        kind = self.modality
        whole = View.from_span(start, self.grid, image=image, newline=self.newline, modality=kind)
        if self.cells is None and not self.leading:
            return whole
        first = np.full(self.leading, SEPARATOR, dtype=np.int64)
        cells = np.concatenate([first, whole.cells[: self.cells]])
        return View(self.grid, start + np.arange(cells.size, dtype=np.int64), cells, image, kind)

    def __str__(self) -> str:
        frames, rows, columns = self.grid
        if self.modality == "audio":
            return f"{frames} of audio"
        text = f"{rows} x {columns}" if frames == 1 else f"{frames} x {rows} x {columns}"
        if self.cells is not None:
            text += f" (first {self.cells} cells)"
        text += " + newlines" if self.newline else ""
        return text + (f" + {self.leading} class" if self.leading else "")


def prompt_layout(views: Sequence[ViewSize], text_tokens: int) -> VisionLayout:
    """One sample: the views of one image, then the text (counts do not depend on the order).

    Raises:
        ConfigError: no vision tokens or more than `MOST_TOKENS`, or such a number of text tokens.
    """
    vision = sum(view.tokens for view in views)
    if vision < 1:
        raise ConfigError("there is nothing to compress without vision tokens", field="views")
    if vision > MOST_TOKENS:
        raise ConfigError(
            f"a prompt of more than {MOST_TOKENS:,} vision tokens is not laid out",
            field="views",
            value=vision,
            remedy="give smaller grids",
        )
    if not 0 <= text_tokens <= MOST_TOKENS:
        raise ConfigError(
            f"a number of tokens is not negative, and at most {MOST_TOKENS:,}",
            field="text_tokens",
            value=text_tokens,
        )
    placed, start = [], 0
    for size in views:
        placed.append(size.view(start))
        start += size.tokens
    return VisionLayout(start + text_tokens, (SampleLayout(tuple(placed)),))


@dataclass(frozen=True)
class Cost:
    """What one sequence costs.

    Attributes:
        vision_tokens: vision tokens that each layer caches. With text in play (`scope: all`) the
            expected number: their share of the entries that are left.
        vision_kv_bytes: bytes of their keys and values over all layers.
        kv_bytes: bytes of the whole cache after the last token: vision, text and generated.
        prefill_flops, decode_flops: FLOPs of the model in prefill and in all decode steps.
        compression_flops: FLOPs of guidance, matching and merging, on top of `prefill_flops`.
        compression_products: those among them that are matrix products, which counters of a run
            see; softmax and merging are the rest.
    """

    vision_tokens: tuple[int, ...]
    vision_kv_bytes: int
    kv_bytes: int
    prefill_flops: int
    decode_flops: int
    compression_flops: int
    compression_products: int = 0

    @property
    def flops(self) -> int:
        """All FLOPs: prefill, compression and decoding."""
        return self.prefill_flops + self.compression_flops + self.decode_flops

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "flops": self.flops, "vision_tokens": list(self.vision_tokens)}


@dataclass(frozen=True)
class Savings:
    """A pipeline against the uncompressed decoder, for one sequence.

    Attributes:
        text_tokens: non-vision tokens of the prompt.
        separators: vision tokens without a patch (newlines, class tokens), which stages may leave
            alone.
        new_tokens: generated tokens, the one that the prefill gives included.
        planned_retention: of the schedule, before rounding and before protected tokens.
        vanilla, compressed: cost without and with the pipeline.
        estimate: why costs are only an estimate for this decoder; empty if they are counted.
        stateful: layers without entries, which a stage on the cache cannot reach; the retention is then
            counted without them.
        by_modality: modality → its tokens that each layer caches.
        originals: modality → its tokens in the prompt.
    """

    text_tokens: int
    separators: int
    new_tokens: int
    planned_retention: float
    vanilla: Cost
    compressed: Cost
    by_modality: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    originals: Mapping[str, int] = field(default_factory=dict)
    estimate: str = ""
    stateful: tuple[int, ...] = ()

    @property
    def retentions(self) -> dict[str, float]:
        """`retention` of each modality."""
        return {
            name: self._share(kept, self.originals[name]) for name, kept in self.by_modality.items()
        }

    @property
    def retention(self) -> float:
        """Mean over all layers of the share of vision tokens in the cache."""
        return self._share(self.compressed.vision_tokens, self.vanilla.vision_tokens[0])

    def _share(self, kept: Sequence[int], original: int) -> float:
        counted = [n for layer, n in enumerate(kept) if layer not in self.stateful]
        return sum(counted) / (len(counted) * original)

    @property
    def runs(self) -> list[tuple[int, int, int]]:
        """(first layer, last layer, vision tokens) of runs of equal layers."""
        return equal_layers(self.compressed.vision_tokens)

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "text_tokens": self.text_tokens,
            "vision_tokens": self.vanilla.vision_tokens[0],
            "separators": self.separators,
            "new_tokens": self.new_tokens,
            "planned_retention": self.planned_retention,
            "retention": self.retention,
            "retentions": self.retentions,
            "estimate": self.estimate,
            "vanilla": self.vanilla.to_dict(),
            "compressed": self.compressed.to_dict(),
        }


def count_savings(
    pipeline: Pipeline, shape: DecoderShape, layout: VisionLayout, new_tokens: int = 100
) -> Savings:
    """Costs of a prompt laid out as `layout` (one sample) with and without a pipeline.

    Args:
        pipeline: built for the depth of `shape`.
        shape: sizes of the decoder.
        layout: one row; its length fixes the number of text tokens.
        new_tokens: generated tokens, at least 1.

    Raises:
        ConfigError: windows that do not fit the grid, a prompt without any of the modalities that are
            to be compressed, or a number of generated tokens that is not from 1 to `MOST_STEPS`.
    """
    pipeline.check_prompt(layout)
    if not 1 <= new_tokens <= MOST_STEPS:
        raise ConfigError(
            f"the prefill gives one token at least, and {MOST_STEPS:,} steps are counted at most",
            field="new_tokens",
            value=new_tokens,
        )
    text = layout.text_counts[0]
    layers, flops = _walk(pipeline, shape, layout)
    vision = layout.vision_counts[0]
    originals = layout.counts_by_modality[0]
    unchanged = [_Layer(vision, originals, vision + text)] * shape.num_layers
    cells = np.concatenate([view.cells for view in layout.samples[0].views])
    return Savings(
        text_tokens=text,
        separators=int((cells == SEPARATOR).sum()),
        new_tokens=new_tokens,
        planned_retention=pipeline.planned_for(layout),
        by_modality={name: tuple(each.shown[name] for each in layers) for name in originals},
        originals=originals,
        vanilla=_cost(shape, unchanged, text, new_tokens, Flops(), vision + text),
        compressed=_cost(shape, layers, text, new_tokens, flops, vision + text),
        estimate=shape.estimate,
        stateful=() if pipeline.on_cache is None else shape.without_entries,
    )


@dataclass(frozen=True)
class _Layer:
    """Of one layer: vision tokens seen, those stored of each modality, and all entries stored."""

    seen: int
    shown: Mapping[str, int]
    entries: int

    @property
    def vision(self) -> int:
        """Vision tokens stored."""
        return sum(self.shown.values())


def _walk(
    pipeline: Pipeline, shape: DecoderShape, layout: VisionLayout
) -> tuple[list[_Layer], Flops]:
    """What each layer sees and stores, and the FLOPs of all stages."""
    layers, flops = [], Flops()
    here: tuple[_Layer, Flops] | None = None
    for layer in range(shape.num_layers):
        if layer in pipeline.between:
            (step,) = pipeline.between[layer].planned(layout)
            if step.plan.removes:
                length = layout.length - layout.pads[0]
                read = read_layer(step.stage, layer)
                flops += step.stage.flops(shape.stage_sizes(step.plan, length, 0, layer=read))
                layout, here = step.after(), None
        # Layers between two stages see, and store, the same.
        if here is None or (pipeline.on_cache is not None and shape.layers):
            here = _layer(pipeline, shape, layout, layer)
        layers.append(here[0])
        flops += here[1]
    return layers, flops


def _layer(
    pipeline: Pipeline, shape: DecoderShape, layout: VisionLayout, layer: int
) -> tuple[_Layer, Flops]:
    """What a layer that sees `layout` stores, and the FLOPs of a stage on its cache."""
    seen, length = layout.vision_counts[0], layout.length - layout.pads[0]
    if pipeline.on_cache is None or not shape.layer(layer).width:
        return _Layer(seen, layout.counts_by_modality[0], length), Flops()
    rounds = list(pipeline.on_cache.planned(layout))
    left = rounds[-1].after()
    entries = left.length - left.pads[0]
    shown = left.counts_by_modality[0]
    if pipeline.counts_text:
        shown = {
            name: round(count * entries / length)
            for name, count in layout.counts_by_modality[0].items()
        }
    flops = cache_flops([(r.stage, r.plan) for r in rounds], shape, length, 0, layer)
    return _Layer(seen, shown, entries), flops


def _cost(
    shape: DecoderShape,
    layers: Sequence[_Layer],
    text: int,
    new_tokens: int,
    compression: Flops,
    prompt: int,
) -> Cost:
    steps = new_tokens - 1
    stored = [each.entries for each in layers]
    # Where a layer slides, the text that follows pushes vision tokens out of its cache.
    held = [
        each.vision if shape.layer(i).window is None else max(0, shape.held(i, each.entries) - text)
        for i, each in enumerate(layers)
    ]
    return Cost(
        vision_tokens=tuple(each.vision for each in layers),
        vision_kv_bytes=sum(shape.token_bytes(layer) * n for layer, n in enumerate(held)),
        kv_bytes=shape.kv_bytes([length + steps for length in stored]),
        prefill_flops=shape.prefill_flops([each.seen + text for each in layers], prompt),
        decode_flops=shape.decode_flops(stored, steps),
        compression_flops=compression.total,
        compression_products=compression.products,
    )
