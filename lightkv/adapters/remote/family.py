"""What a family answers about modelling code that ships with its checkpoint."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from lightkv.adapters.hf.family import Family
from lightkv.adapters.hf.forward import Kwargs
from lightkv.adapters.hf.masks import Windows


class RemoteFamily(Family):
    """Answers for remote code: found by class name, eager attention, tuple caches."""

    class_name: str
    replaces_entries = False
    generates_around: ClassVar[bool] = False
    """Whether `generate` of the model puts pictures in, and calls the decoder around its forward."""

    def matches(self, model: nn.Module) -> bool:
        # The class comes from the checkpoint's own file, so there is nothing to import and compare.
        return any(kind.__name__ == self.class_name for kind in type(model).__mro__)

    def input_module(self, model: nn.Module) -> nn.Module:
        return model

    def attention_implementation(self, model: nn.Module) -> str | None:
        return "eager"

    def windows(self, model: nn.Module) -> Windows:
        return ()

    def rotary_kind(self, decoder: nn.Module, layer: int) -> str | None:
        return None

    def with_pixels(self, model: nn.Module, arguments: Kwargs) -> Kwargs:
        """Arguments of the outer call with the pictures as `pixel_values`, checked.

        Raises:
            LightKVError: ids and pictures that do not fit, before the model trips over them.
        """
        return arguments

    def check_generate(self, model: nn.Module) -> None:
        """Refuse a `generate` around the forward pass that cannot run.

        Raises:
            ModelError: what it lacks.
        """

    @abstractmethod
    def projections(self, attention: nn.Module) -> Sequence[nn.Module]:
        """The modules of an attention whose outputs hold query and key."""

    @abstractmethod
    def query_key(
        self, attention: nn.Module, outputs: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Query `[B, H, N, d]` and key `[B, Hₖᵥ, N, d]` before rotation, from those outputs."""
