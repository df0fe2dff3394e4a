"""Compiled modules, and passes that ran past the hooks of a session."""

from __future__ import annotations

from torch import nn

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
