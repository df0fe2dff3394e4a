"""What an adapter answers for one model family, and how the right one is found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from lightkv.core.cost.flops import DecoderShape
from lightkv.core.errors import ModelError, check_known
from lightkv.core.heads import HeadGroup
from lightkv.core.modality import MODALITIES
from lightkv.core.pipeline.places import Places
from lightkv.core.plugins import registry
from lightkv.core.run.refusal import GRID, Refusal, Standing

if TYPE_CHECKING:
    from lightkv.core.layout import VisionLayout
    from lightkv.core.run.engine import Engine


class Attachment(ABC):
    """A model with the engine attached; `detach` restores everything."""

    @abstractmethod
    def detach(self) -> None:
        """Remove every hook and restore every attribute. Safe to call twice."""


class Adapter(ABC):
    """Maps a model family onto the engine.

    Attributes:
        name: how errors and the command line call it.
        models: human-readable families, for listings.
        model_types: values of `config.model_type` that it serves.
        geometry: `grid` if its views show where tokens lie in a picture, `strip` if they have no place.
        modalities: what its prompts may hold tokens of; all that there are, unless a family says.
    """

    name: str
    models: str = ""
    model_types: ClassVar[tuple[str, ...]] = ()
    geometry: ClassVar[str] = GRID
    modalities: ClassVar[tuple[str, ...]] = MODALITIES

    @abstractmethod
    def matches(self, model: nn.Module) -> bool:
        """Whether this adapter serves the model."""

    def refusal(self, model: nn.Module) -> Refusal | None:
        """Why a model that this adapter recognises cannot be compressed; None for all others.

        Asked before `matches`, of models for which no adapter registered later spoke.
        """
        return None

    def standing(self, model_type: str) -> Standing | None:
        """What it makes of models of a type, told without a model; None for types of others."""
        return Standing(self.geometry) if model_type in self.model_types else None

    @abstractmethod
    def shape(self, config: Any) -> DecoderShape:
        """Sizes of the decoder from the model's config (no weights needed)."""

    @abstractmethod
    def key_module(self, model: nn.Module) -> nn.Module:
        """The module that identifies the model: two sessions on it would collide."""

    @abstractmethod
    def num_layers(self, model: nn.Module) -> int:
        """Decoder layers."""

    def min_layer(self, model: nn.Module) -> int:
        """Decoder layers that must have run before the first stage."""
        return 0

    def places(self, model: nn.Module) -> Places:
        """Where the decoder lets stages act; by default anywhere from `min_layer` on."""
        return Places(first=self.min_layer(model))

    def heads(self, model: nn.Module) -> HeadGroup:
        """The processes that share the attention heads of the decoder (tensor parallelism)."""
        return HeadGroup()

    @abstractmethod
    def attach(self, model: nn.Module, engine: Engine, layout: VisionLayout | None) -> Attachment:
        """Hook the engine into the model.

        Args:
            model: the model.
            engine: receives layouts and compresses hidden states.
            layout: vision spans given by the caller, for inputs that cannot be read.
        """


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside a wrapper that only adds parameters (PEFT); other wrappers are refused.

    Raises:
        ModelError: a wrapper that replicates, shards or compiles the whole model.
    """
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise ModelError(
            "a replicated model runs in copies that hooks do not reach",
            field="model",
            value=type(model).__name__,
            remedy="compress the inner model: compress(model.module, …)",
        )
    if hasattr(model, "_orig_mod"):
        raise ModelError(
            "a model that was compiled as a whole has shapes that compression changes",
            field="model",
            value=type(model).__name__,
            remedy="compress the model before compiling it: compress(model._orig_mod, …)",
        )
    _refuse_fully_sharded(model)
    base = getattr(model, "get_base_model", None)
    return base() if callable(base) else model


def _refuse_fully_sharded(model: nn.Module) -> None:
    if not torch.distributed.is_available():
        return
    from torch.distributed import fsdp

    kinds = (fsdp.FullyShardedDataParallel, fsdp.FSDPModule)
    sharded = next((module for module in model.modules() if isinstance(module, kinds)), None)
    if sharded is not None:
        raise ModelError(
            "a fully sharded model runs another batch in every process, each with its own lengths",
            field="model",
            value=type(sharded).__name__,
            remedy="for inference load it with tp_plan='auto' or device_map='auto' instead",
        )


def model_type(model: nn.Module) -> str | None:
    """`model.config.model_type`, None where there is none."""
    found = getattr(getattr(model, "config", None), "model_type", None)
    return found if isinstance(found, str) else None


def find_adapter(model: nn.Module, adapter: Adapter | str | None = None) -> Adapter:
    """The adapter for a model; the last registered match wins, so plugins can override.

    Raises:
        ModelError: no adapter serves the model, or one knows why it cannot be served.
    """
    if isinstance(adapter, Adapter):
        return adapter
    adapters = registered()
    if isinstance(adapter, str):
        what = "there is no adapter of that name"
        check_known(ModelError, what, "adapter", adapter, sorted(adapters))
        return adapters[adapter]
    for each in reversed(list(adapters.values())):
        refusal = each.refusal(model)
        if refusal is not None:
            raise refusal.error(model)
        if each.matches(model):
            return each
    raise ModelError(
        f"no adapter serves {type(model).__name__}",
        field="model",
        value=type(model).__name__,
        remedy=f"`lightkv models` lists the types that work; the adapters are: {', '.join(adapters)}. "
        "For any other decoder use adapter='generic' and give the vision spans "
        "(layout=VisionLayout.from_spans(...)), or write an adapter (docs/writing-an-adapter.md)",
    )


def standing_of(model_type: str) -> tuple[str, Standing] | None:
    """What becomes of a model type, and the name of the adapter that says so; asked as models are.

    None: no adapter knows it.
    """
    for name, each in reversed(list(registered().items())):
        found = each.standing(model_type)
        if found is not None:
            return name, found
    return None


def registered() -> dict[str, Adapter]:
    """The registered adapters, in their order; what is none goes on record as a failed plugin."""
    found = registry()
    adapters = {}
    for name, entry in list(found.adapters.items()):
        if isinstance(entry.value, Adapter):
            adapters[name] = entry.value
        else:
            found.refuse("adapter", name)
    return adapters
