"""Refusals of models whose hooks would not run, or run twice: compiled code, gradient checkpointing."""

from __future__ import annotations

import torch
from torch import nn

from lightkv.adapters.hf.contact import RUNS_HOOKS_AGAIN
from lightkv.core.errors import ModelError


def refuse_compiled(module: nn.Module) -> None:
    """Refuse a module with hooks on it that is compiled; others may be.

    Raises:
        ModelError: with how to undo it.
    """
    forward = vars(module).get("forward")
    original = getattr(forward, "_torchdynamo_orig_callable", None)
    if original is None and not hasattr(module, "_orig_mod") and not module._compiled_call_impl:
        return
    raise ModelError(
        "it is compiled, and a compiled decoder has shapes that compression changes; compiled code may "
        "also run without the hooks that were added later",
        field="model",
        value=type(module).__name__,
        remedy="leave the decoder and its layers uncompiled, or undo it (layer._orig_mod; del "
        "model.forward; model._compiled_call_impl = None); the vision tower and the layers' own parts, "
        "such as mlp, may be compiled",
    )


def hooks_ignored(module: nn.Module) -> ModelError:
    """The error for a pass that ran past the hooks of a session, uncompressed."""
    return ModelError(
        "a pass ended in which the hooks of the session were not called, so nothing was compressed: the "
        "code that ran was compiled before, or it calls `forward` of a module directly",
        field="model",
        value=type(module).__name__,
        remedy="do not compile the model or its decoder (vision tower and mlp may be), and call modules "
        "instead of their forward",
    )


def refuse_checkpointing(module: nn.Module, *, own_code: bool = False) -> None:
    """Refuse a pass whose gradients would be those of other hidden states.

    The hook that compresses runs inside the checkpoint there, and once more when the layer is computed
    again in the backward pass: after the session's pass is over.

    Args:
        module: that says whether activations are checkpointed.
        own_code: whether it is code written for transformers 4, which checkpoints calls of layers with
            their hooks. Layers of transformers did so before 5.23.

    Raises:
        ModelError: it does so in this pass.
    """
    checkpoints = getattr(module, "gradient_checkpointing", False) and module.training
    if not checkpoints or not torch.is_grad_enabled() or not (own_code or RUNS_HOOKS_AGAIN):
        return
    if own_code:
        what = (
            "this code calls layers, and their hooks, again when gradient checkpointing computes them "
            "again"
        )
        remedy = "switch it off inside the session (model.gradient_checkpointing_disable())"
    else:
        what = (
            "before 5.23 transformers runs the hooks of a layer again when gradient checkpointing "
            "computes it again"
        )
        remedy = "use transformers >= 5.23, or call model.gradient_checkpointing_disable()"
    raise ModelError(
        f"{what}, and the tokens are compressed in a hook",
        field="gradient_checkpointing",
        value=True,
        remedy=remedy,
    )
