"""Geometry of the pictures of a request, caught where the vision features are made.

`generate` encodes the pictures before the forward pass and passes features only, so sizes and grids
are gone by then. The feature methods of the *instance* are wrapped while a session lasts.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lightkv.adapters.hf.contact import ENCODED, FEATURE_METHODS
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.hf.not_copyable import NotCopyable
from lightkv.core.errors import LayoutError


class FeatureCapture(NotCopyable):
    """Remembers the arguments of the last feature calls of a module, for each thread.

    Args:
        module: the instance with the methods.
        before, failed: called before a call, and when it raised.
        after: called with modality, output and arguments.
    """

    def __init__(
        self,
        module: nn.Module,
        before: Callable[[], None],
        after: Callable[[str, Any, dict[str, Any]], None],
        failed: Callable[[], None],
    ) -> None:
        self._local = threading.local()
        self._module = module
        self._before = before
        self._after = after
        self._failed = failed
        self._wrapped: list[str] = []

    @property
    def seen(self) -> dict[str, dict[str, Any]]:
        """Modality → arguments by name. A generation makes features and runs in one thread."""
        if not hasattr(self._local, "seen"):
            self._local.seen = {}
        return self._local.seen  # type: ignore[no-any-return]

    @property
    def modality(self) -> str | None:
        """The modality whose features this thread is making right now, or None."""
        return getattr(self._local, "modality", None)

    def open(self) -> None:
        """Wrap the methods of this instance; its class is not touched."""
        for modality, name in FEATURE_METHODS.items():
            method = getattr(self._module, name, None)
            if method is not None and name not in vars(self._module):
                setattr(self._module, name, _Remembering(self, modality, method))
                self._wrapped.append(name)

    def close(self) -> None:
        """Give the instance its class's methods back. Safe to call twice."""
        for name in self._wrapped:
            vars(self._module).pop(name, None)
        self._wrapped = []
        self._local = threading.local()

    def call(self, modality: str, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """What the method gives, its arguments remembered."""
        self._before()
        signature = inspect.signature(method)
        bound = signature.bind_partial(*args, **kwargs)
        extra = next((n for n, p in signature.parameters.items() if p.kind is p.VAR_KEYWORD), None)
        arguments = dict(bound.arguments)
        arguments.update(arguments.pop(extra, {}) if extra else {})
        self.seen[modality] = arguments
        self._local.modality = modality
        try:
            output = method(*args, **kwargs)
            self._after(modality, output, arguments)
            return output
        except BaseException:
            self.seen.pop(modality, None)
            self._failed()
            raise
        finally:
            self._local.modality = None


class _Remembering(NotCopyable):
    """A feature method of one instance, as long as a session lasts."""

    def __init__(self, capture: FeatureCapture, modality: str, method: Callable[..., Any]) -> None:
        # For `inspect.signature`, which transformers asks; the method's own attributes, too.
        functools.update_wrapper(self, method)
        self._capture, self._modality, self._method = capture, modality, method

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._capture.call(self._modality, self._method, args, kwargs)


PICTURES = {"image", "video"}


class FeatureCount:
    """Compares the placeholders of one pass with the features that its pixels give.

    Of audio the layout compares them with the lengths of recordings; features may hold padding.
    """

    def __init__(self) -> None:
        self._found: int | None = None
        self._pixels: dict[str, Any] = {}
        self._outputs: dict[str, Any] = {}

    def expect(self, inputs: ModelInputs, found: int) -> None:
        """A pass with `found` placeholders of pictures begins; `generate` made its features before.

        Raises:
            LayoutError: they are not as many.
        """
        given = inputs.arguments.get(ENCODED) or {}
        self._pixels = {kind: inputs.pixels[kind] for kind in PICTURES & inputs.pixels.keys()}
        self._outputs = {kind: given[kind] for kind in PICTURES & given.keys()}
        self._found = found
        self._check()

    def made(self, modality: str, output: Any, arguments: dict[str, Any]) -> None:
        """The model made features inside the pass, or somebody did outside of any.

        Raises:
            LayoutError: as `expect`.
        """
        pixels = self._pixels.get(modality)
        # The pixels are compared because an interrupted pass (Ctrl-C) leaves its inputs behind.
        if pixels is not None and any(pixels is value for value in arguments.values()):
            self._outputs[modality] = output
            self._check()

    def _check(self) -> None:
        if self._found is not None and self._pixels.keys() <= self._outputs.keys():
            found, self._found = self._found, None
            check_features(found, self._outputs)


def feature_tokens(output: Any) -> int | None:
    """Vision tokens that the features of one modality hold, None if their form is not known."""
    features: Any = getattr(output, "pooler_output", None)
    if features is None:
        features = getattr(output, "last_hidden_state", output)
    parts = [features] if isinstance(features, torch.Tensor) else features
    if not isinstance(parts, list | tuple) or not all(isinstance(p, torch.Tensor) for p in parts):
        return None
    return sum(int(part.numel()) // int(part.shape[-1]) for part in parts if part.numel())


def check_features(found: int, outputs: dict[str, Any]) -> None:
    """Refuse features that are not as many as their placeholders (of all modalities together).

    Raises:
        LayoutError: with both numbers.
    """
    counts = [feature_tokens(output) for output in outputs.values() if output is not None]
    if not counts or None in counts or (total := sum(n for n in counts if n)) == found:
        return
    raise LayoutError(
        f"the prompt has {found} placeholders, but the pixel inputs give {total} vision tokens",
        field="input_ids",
        value=found,
        remedy="let the processor expand the placeholders, one for each picture, and pass the whole "
        "prompt at once (no prefill_chunk_size)",
    )
