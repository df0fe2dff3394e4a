"""What stages may read of a vision encoder, recorded by hooks while it runs.

Query and key of the class token's attention are caught at the outputs of `q_proj` and `k_proj` of
the layers that a stage names, features where they enter the projector. Nothing runs twice, and the
encoder keeps its attention implementation.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from lightkv.adapters.hf.family import Family
from lightkv.adapters.hf.features import FeatureCapture
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.hf.not_copyable import NotCopyable
from lightkv.adapters.hf.vision_tower import Encoder, has_class_token
from lightkv.adapters.pictures.patches import NO_PATCH, PatchTable, patch_tables
from lightkv.core.encoder import VisionView, layer_number
from lightkv.core.errors import ConfigError, ModelError
from lightkv.core.layout import VisionLayout
from lightkv.core.needs import Need, Needs, Source, encoder_layers, needs_class_token, needs_from
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.core.transfer import to_device


def check_encoder(adapter: Family, model: nn.Module, needs: Needs, spans_given: bool) -> Encoder:
    """The encoder of a model, if it meets what stages need of it.

    Raises:
        ModelError: it has no class token, it is not offered, or spans were given by the caller.
        ConfigError: a layer that it does not have.
    """
    encoder = adapter.encoder(model)
    alone = "use a preset that reads the decoder, such as 'lightkv', 'fastv' or 'divprune'"
    classless = encoder is None and not has_class_token(model)
    if needs_class_token(needs) and (classless or (encoder is not None and not encoder.leading)):
        raise ModelError(
            f"the vision encoder of {adapter.name} has no class token, whose attention this "
            "pipeline reads",
            field="model",
            value=type(model).__name__,
            remedy=alone,
        )
    if encoder is None:
        raise ModelError(
            f"the adapter {adapter.name!r} does not offer its vision encoder (class token, keys, "
            "features), which this pipeline reads",
            field="model",
            value=type(model).__name__,
            remedy=f"{alone}, or override `encoder` (docs/writing-an-adapter.md)",
        )
    if spans_given:
        raise ModelError(
            "spans do not say which patch of the vision encoder each token shows",
            field="layout",
            remedy="leave `layout` out, or use a pipeline that reads the decoder",
        )
    for layer in encoder_layers(needs):
        if not -encoder.depth <= layer < encoder.depth:
            raise ConfigError(
                f"the vision encoder has {encoder.depth} layers",
                field="layer",
                value=layer,
                remedy=f"use {-encoder.depth} … {encoder.depth - 1}",
            )
    return encoder


@dataclass
class Recording:
    """What was caught of one run of an encoder over I images of T tokens.

    Attributes:
        query: layer → `[I, leading, C]` query of the class token.
        key: layer → `[I, T, C]`.
        features: `[I, T′, Dᵥ]` what entered the projector.
        encoded: patches of all images, the class tokens left out.
    """

    query: dict[int, torch.Tensor] = field(default_factory=dict)
    key: dict[int, torch.Tensor] = field(default_factory=dict)
    features: torch.Tensor | None = None
    encoded: int = 0


class EncoderRecorder(NotCopyable):
    """Records what the stages of a pipeline need, from the encoder's run to their end.

    Does nothing for pipelines that read no encoder.
    """

    def __init__(
        self,
        adapter: Family,
        model: nn.Module,
        pipeline: Pipeline,
        capture: FeatureCapture,
        *,
        spans_given: bool,
    ) -> None:
        asked = {
            after: needs_from(placed.stage.needs, Source.ENCODER)
            for after, placed in pipeline.between.items()
        }
        self._needs = Needs().union(*asked.values())
        self._last = max((after for after, needs in asked.items() if needs), default=-1)
        self._adapter, self._model, self._capture = adapter, model, capture
        self._encoder: Encoder | None = None
        if self._needs:
            self._encoder = check_encoder(adapter, model, self._needs, spans_given)
        # Pictures are encoded before a pass begins, so several threads may be at it at once.
        self._local = threading.local()
        self._handles: list[Any] = []

    def open(self) -> None:
        """Hook the encoder's layers and the projector."""
        encoder = self._encoder
        if encoder is None:
            return
        wanted = {layer_number(layer, encoder.depth) for layer in encoder_layers(self._needs)}
        for modality, layers in encoder.layers.items():
            self._add(layers[0].k_proj, modality, self._count)  # type: ignore[arg-type]
            for layer in sorted(wanted):
                attention: Any = layers[layer]
                self._add(attention.q_proj, modality, partial(self._keep_query, layer))
                self._add(attention.k_proj, modality, partial(self._keep_key, layer))
        if Need.VISION_FEATURES in self._needs:
            self._handles.append(encoder.projector.register_forward_pre_hook(self._keep_features))

    def close(self) -> None:
        """Remove the hooks. Safe to call twice."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._local = threading.local()

    def clear(self) -> None:
        """Let go of what this thread recorded."""
        self._local.seen = {}

    @property
    def _seen(self) -> dict[str, Recording]:
        """Modality → what this thread recorded."""
        if not hasattr(self._local, "seen"):
            self._local.seen = {}
        return self._local.seen  # type: ignore[no-any-return]

    def done(self, after_layer: int) -> bool:
        """Whether no stage behind that layer reads the encoder."""
        return after_layer >= self._last

    def view(self, inputs: ModelInputs | None, layout: VisionLayout) -> VisionView | None:
        """The encoder's view of the tokens of a pass, None where there is nothing to see.

        Raises:
            ModelError: the encoder did not run in this session, or on other pictures.
        """
        encoder = self._encoder
        if encoder is None or inputs is None or not any(layout.vision_counts):
            return None
        parts = []
        made = {modality: recording.encoded for modality, recording in self._seen.items()}
        for table in patch_tables(self._adapter.pictures(self._model, inputs), layout, made):
            recording = self._seen.get(table.modality)
            if recording is None:
                raise _unseen(table.modality)
            if recording.encoded != table.encoded:
                raise _mismatch(table, recording.encoded)
            parts.append((table, recording))
        return EncoderView(encoder, parts)

    # -- hooks --------------------------------------------------------------------------------

    def _add(self, module: nn.Module, modality: str, keep: Callable[..., None]) -> None:
        self._handles.append(module.register_forward_hook(partial(self._on_output, modality, keep)))

    def _on_output(
        self,
        modality: str,
        keep: Callable[..., None],
        module: nn.Module,
        args: Any,
        output: torch.Tensor,
    ) -> None:
        # One tower may serve several modalities; the feature call that runs says which it is.
        if self._capture.modality == modality:
            keep(self._recording(modality), output.detach())

    def _recording(self, modality: str) -> Recording:
        return self._seen.setdefault(modality, Recording())

    def _count(self, recording: Recording, output: torch.Tensor) -> None:
        assert self._encoder is not None
        recording.encoded = output.shape[0] * (output.shape[1] - self._encoder.leading)

    def _keep_query(self, layer: int, recording: Recording, output: torch.Tensor) -> None:
        assert self._encoder is not None
        recording.query[layer] = output[:, : self._encoder.leading]

    def _keep_key(self, layer: int, recording: Recording, output: torch.Tensor) -> None:
        recording.key[layer] = output

    def _keep_features(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        modality = self._capture.modality
        if modality is not None:
            self._recording(modality).features = args[0]


class EncoderView(VisionView):
    """A recording, seen from the vision tokens of a batch."""

    def __init__(self, encoder: Encoder, parts: Sequence[tuple[PatchTable, Recording]]) -> None:
        self._encoder = encoder
        self._parts = parts

    def cls_attention(self, layer: int | float, *, split: bool = True) -> torch.Tensor:
        return self._each(partial(self._attention, layer, split), pool=torch.sum)

    def keys(self, layer: int | float) -> torch.Tensor:
        return self._each(lambda m, r: self._heads(m, layer, r.key)[:, self._encoder.leading :])

    def cls_query(self, layer: int | float) -> torch.Tensor:
        def repeated(modality: str, recording: Recording) -> torch.Tensor:
            patches = self._tokens(recording, layer) - self._encoder.leading
            return self._heads(modality, layer, recording.query).expand(-1, patches, -1, -1)

        return self._each(repeated)

    def features(self) -> torch.Tensor:
        total: torch.Tensor | None = None
        for table, recording in self._parts:
            given = recording.features
            if given is None:
                raise _unseen(table.modality)
            index = torch.from_numpy(table.inputs)
            if int(table.patches.shape[1]) == 1:
                # A class token that is projected too stands before the patches.
                patches = table.encoded // given.shape[0]
                given = given[:, given.shape[1] - patches :]
            mine = _gathered(given.flatten(0, 1), index[:, None], torch.mean)
            total = mine if total is None else total + mine
        assert total is not None
        return total

    def project(self, features: torch.Tensor) -> torch.Tensor:
        weight = next(self._encoder.projector.parameters())
        return self._encoder.projector(features.to(weight.dtype))  # type: ignore[no-any-return]

    # -- parts --------------------------------------------------------------------------------

    def _layer(self, modality: str, layer: int | float) -> Any:
        return self._encoder.layers[modality][self._index(layer)]

    def _index(self, layer: int | float) -> int:
        return layer_number(layer, self._encoder.depth)

    def _tokens(self, recording: Recording, layer: int | float) -> int:
        return int(recording.key[self._index(layer)].shape[1])

    def _heads(
        self, modality: str, layer: int | float, caught: dict[int, torch.Tensor]
    ) -> torch.Tensor:
        """`[I, T, C]` → `[I, T, H, d]`."""
        index = self._index(layer)
        states = caught[index]
        return states.view(*states.shape[:-1], self._layer(modality, index).num_heads, -1)

    def _attention(
        self, layer: int | float, split: bool, modality: str, recording: Recording
    ) -> torch.Tensor:
        """`[I, patches, H]` attention of the class token."""
        if not self._encoder.leading:
            raise ModelError(
                "the vision encoder has no class token",
                field="model",
                remedy="use components that read keys or features",
            )
        query = self._heads(modality, layer, recording.query)[:, 0].float()
        key = self._heads(modality, layer, recording.key).float()
        if not split:
            query, key = query.flatten(-2)[:, None], key.flatten(-2)[:, :, None]
        logits = torch.einsum("ihd,ithd->ith", query * query.shape[-1] ** -0.5, key)
        return logits.softmax(dim=1)[:, self._encoder.leading :]

    def _each(
        self,
        read: Callable[[str, Recording], torch.Tensor],
        pool: Callable[..., torch.Tensor] = torch.mean,
    ) -> torch.Tensor:
        """What `read` `[I, patches, …]` says of each token; pooled tokens pool their patches."""
        total: torch.Tensor | None = None
        for table, recording in self._parts:
            values = read(table.modality, recording).flatten(0, 1)
            mine = _gathered(values, torch.from_numpy(table.patches), pool)
            total = mine if total is None else total + mine
        assert total is not None
        return total


def _gathered(
    values: torch.Tensor, index: torch.Tensor, pool: Callable[..., torch.Tensor]
) -> torch.Tensor:
    """`[V₀, …]` of `values` `[P, …]` at `index` `[V₀, m]`, pooled over m; zeros where it is −1."""
    # The tables are the same for equal layouts; the copy to a device does not wait.
    index = to_device(index, values.device)
    taken = pool(values[index.clamp(min=0)], dim=1)
    shown = (index[:, 0] != NO_PATCH).view(-1, *[1] * (taken.dim() - 1))
    return torch.where(shown, taken, torch.zeros_like(taken))


def _mismatch(table: PatchTable, made: int) -> ModelError:
    return ModelError(
        f"the vision encoder made {made} patches, but these inputs show {table.encoded}",
        field=table.modality,
        remedy="encode the pictures of a prompt inside the session, right before it",
    )


def _unseen(modality: str) -> ModelError:
    return ModelError(
        f"the {modality} features were computed where this session could not see the vision encoder",
        field=modality,
        remedy="pass the pixels to generate (or get_image_features) inside the session",
    )
