"""Gradient checkpointing, where it runs the hooks of a layer again."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lightkv.adapters.contact import RUNS_HOOKS_AGAIN
from lightkv.core.errors import ModelError


def refuse_checkpointing(layer: nn.Module) -> None:
    """Refuse a pass whose gradients would be those of other hidden states.

    The hook that compresses runs inside the checkpoint there, and once more when the layer is computed
    again in the backward pass: after the session's pass is over.

    Raises:
        ModelError: activations of the layer are checkpointed, by a release that does so.
    """
    layer_: Any = layer
    if not RUNS_HOOKS_AGAIN or not getattr(layer_, "gradient_checkpointing", False):
        return
    if layer_.training and torch.is_grad_enabled():
        raise ModelError(
            "before 5.23 transformers runs the hooks of a layer again when gradient checkpointing "
            "computes it again, and the tokens are compressed in a hook",
            field="gradient_checkpointing",
            value=True,
            remedy="use transformers >= 5.23, or call model.gradient_checkpointing_disable()",
        )


def refuse_recomputing(decoder: nn.Module) -> None:
    """The same for code written for transformers 4, which checkpoints calls of layers with their hooks.

    Raises:
        ModelError: such a decoder checkpoints activations in this pass.
    """
    if not getattr(decoder, "gradient_checkpointing", False):
        return
    if decoder.training and torch.is_grad_enabled():
        raise ModelError(
            "this code calls layers, and their hooks, again when gradient checkpointing computes them "
            "again, and the tokens are compressed in a hook",
            field="gradient_checkpointing",
            value=True,
            remedy="switch it off inside the session (model.gradient_checkpointing_disable())",
        )
