"""From the multimodal features of a vLLM request to the layout that lightkv compresses by.

The geometry is that of the adapters for transformers. What is read of a feature: `modality`,
`identifier`, `mm_position` and, of its processed data, a few whole numbers. Only pictures that are cut
into tiles are looked at, once for each identifier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from lightkv.adapters.families.llava import square_picture
from lightkv.adapters.families.llava_next import any_resolution
from lightkv.adapters.families.qwen_vl import merged_grid
from lightkv.adapters.hf.inputs import host_rows
from lightkv.adapters.pictures.placing import Picture, Pictures, layout_of, runs
from lightkv.adapters.pictures.tiles import arrangement, cut_picture
from lightkv.core.errors import LayoutError, ModelError
from lightkv.core.layout import SampleLayout, VisionLayout
from lightkv.core.recent import Recent
from lightkv.integrations.vllm.families import family_of

REMEMBERED = 1024
"""Geometries and prompts that are kept; a prompt of 1,000 vision tokens takes 20 kB."""
IDENTIFIERS = 65_536
"""Pictures whose geometry is remembered by name, some 300 bytes each: more than vLLM's cache of
processed pictures holds, which may give a picture out without its data."""

Key = tuple[Any, ...]
"""Name of a geometry and its whole numbers: the same key, the same picture."""


class Feature(Protocol):
    """What is read of vLLM's `MultiModalFeatureSpec`."""

    data: Any
    modality: str
    identifier: str
    mm_position: Any


@dataclass(frozen=True)
class Span:
    """Where the vision tokens of one picture stand, and what they show.

    Attributes:
        modality: `image` or `video`.
        key: geometry of the picture.
        runs: (start, end) of each run of its tokens in the prompt; text may stand between them.
    """

    modality: str
    key: Key
    runs: tuple[tuple[int, int], ...]

    @property
    def end(self) -> int:
        """First position after the last vision token."""
        return self.runs[-1][1]

    @property
    def tokens(self) -> int:
        """Vision tokens."""
        return sum(end - start for start, end in self.runs)


@dataclass(frozen=True)
class Geometry:
    """How the picture of one kind is found.

    Attributes:
        key: (modality, processed data, config) → the whole numbers that tell it.
        picture: (config, those numbers) → the picture.
    """

    key: Callable[[str, Any, Any], tuple[int, ...]]
    picture: Callable[[Any, tuple[int, ...]], Picture]


class PictureReader:
    """Reads the features of one model's requests. Safe to share between threads."""

    def __init__(self, config: Any) -> None:
        """
        Args:
            config: the model's config, of transformers.

        Raises:
            ModelError: a model that is not mapped.
        """
        self.config = config
        self.family = family_of(config)
        self._keys: Recent[str, Key] = Recent(IDENTIFIERS)
        self._pictures: Recent[Key, Picture] = Recent(REMEMBERED)
        self._samples: Recent[tuple[Span, ...], SampleLayout] = Recent(REMEMBERED)

    def spans(self, features: Sequence[Feature]) -> tuple[Span, ...]:
        """The pictures of a request in the order of its prompt; hashable.

        Raises:
            ModelError: a kind of picture that is not mapped.
            LayoutError: placeholders that do not match the picture.
        """
        found = [self._span(feature) for feature in features]
        return tuple(sorted(found, key=lambda span: span.runs))

    def readable(self, feature: Feature) -> bool:
        """Whether the geometry of a picture can be told: its data are here, or were before."""
        return feature.data is not None or feature.identifier in self._keys

    def sample(self, spans: tuple[Span, ...]) -> SampleLayout:
        """Where the vision tokens of a prompt lie and what they show, whatever stands behind them."""
        return self._samples.get(spans, lambda: self._layout(spans).samples[0])

    def _layout(self, spans: tuple[Span, ...]) -> VisionLayout:
        kinds, length = [], max(span.end for span in spans)
        for modality in dict.fromkeys(span.modality for span in spans):
            own = [span for span in spans if span.modality == modality]
            here = np.zeros((1, length), dtype=np.bool_)
            for start, end in (run for span in own for run in span.runs):
                here[0, start:end] = True
            kinds.append(Pictures(modality, here, [self.picture(span.key) for span in own]))
        return layout_of(kinds, length, (0,))

    def picture(self, key: Key) -> Picture:
        """The picture of a geometry."""
        return self._pictures.get(key, lambda: self._made(key))

    def _made(self, key: Key) -> Picture:
        return GEOMETRIES[key[0]].picture(self.config, key[1:])

    def _span(self, feature: Feature) -> Span:
        geometry = self.family.geometry.get(feature.modality)
        if geometry is None:
            raise ModelError(
                f"grids of {feature.modality} inputs are unknown for {self.family.architecture}",
                field="multi_modal_data",
                value=feature.modality,
                remedy="lightkv in vLLM knows " + " and ".join(self.family.modalities) + " there",
            )
        key = self._keys.get(
            feature.identifier, lambda: (geometry, *self._numbers(geometry, feature))
        )
        span = Span(feature.modality, key, _placeholders(feature.mm_position))
        expected = self.picture(key).tokens
        if span.tokens != expected:
            raise LayoutError(
                f"{span.tokens} {feature.modality} placeholders, but the picture {key} takes {expected}",
                field="multi_modal_data",
                remedy="let vLLM expand the placeholders from the picture, with video_pruning_rate off",
            )
        return span

    def _numbers(self, geometry: str, feature: Feature) -> tuple[int, ...]:
        if feature.data is None:
            raise LayoutError(
                "the processed data of a picture are not here, so its grid is unknown",
                field="multi_modal_data",
                value=feature.identifier,
                remedy="serve with mm_processor_cache_type='lru', or mm_processor_cache_gb=0",
            )
        return GEOMETRIES[geometry].key(feature.modality, feature.data, self.config)


def _placeholders(place: Any) -> tuple[tuple[int, int], ...]:
    """(start, end) of each run of vision tokens of vLLM's `PlaceholderRange`."""
    offset, length, embeds = int(place.offset), int(place.length), place.is_embed
    if embeds is None:
        return ((offset, offset + length),)
    here = np.asarray(torch.as_tensor(embeds).cpu().numpy(), dtype=np.bool_)
    return tuple((offset + start, offset + end) for start, end in runs(here))


def _field(data: Any, name: str) -> Any:
    """A field of processed data.

    Raises:
        ModelError: the picture came without it, as one that was encoded elsewhere does.
    """
    found = data.get(name) if hasattr(data, "get") else None
    if found is None:
        raise ModelError(
            f"a picture came without {name}, so its grid is unknown",
            field="multi_modal_data",
            value=name,
            remedy="give the picture itself, not embeddings of it",
        )
    return getattr(found, "data", found)


def _row(data: Any, name: str) -> tuple[int, ...]:
    [row] = host_rows(_field(data, name))
    return row


def _tiles(modality: str, data: Any, config: Any) -> tuple[int, ...]:
    pixels = _field(data, "pixel_values")
    pixels = pixels.reshape(-1, *pixels.shape[-3:])
    return arrangement(pixels[:-1], pixels[-1]) if len(pixels) > 1 else ()


GEOMETRIES = {
    "square": Geometry(lambda *_: (), lambda config, _: square_picture(config)),
    "any_resolution": Geometry(
        lambda _, data, config: _row(data, "image_sizes"),
        lambda config, size: any_resolution(config, size),
    ),
    "grid": Geometry(
        lambda modality, data, config: _row(data, f"{modality}_grid_thw"),
        lambda config, grid: merged_grid(config, grid),
    ),
    "tiles": Geometry(
        _tiles, lambda config, cut: cut_picture(cut or None, int(config.image_seq_length))
    ),
}
"""Name of a geometry (`families.py`) → how its pictures are found."""
