"""Geometry of the pictures of a request, caught where the vision features are made.

`generate` encodes the pictures before the forward pass and passes features only, so sizes and grids
are gone by then. The two feature methods of the *instance* are wrapped while a session lasts.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any

from torch import nn

METHODS = {"image": "get_image_features", "video": "get_video_features"}


class FeatureCapture:
    """Remembers the arguments of the last feature calls of a module, for each thread.

    Args:
        module: the instance with the methods.
        before, failed: called before a call, and when it raised.
    """

    def __init__(
        self, module: nn.Module, before: Callable[[], None], failed: Callable[[], None]
    ) -> None:
        self._local = threading.local()
        self._module = module
        self._before = before
        self._failed = failed
        self._wrapped: list[str] = []

    @property
    def seen(self) -> dict[str, dict[str, Any]]:
        """Modality → arguments by name. A generation makes features and runs in one thread."""
        if not hasattr(self._local, "seen"):
            self._local.seen = {}
        return self._local.seen  # type: ignore[no-any-return]

    def open(self) -> None:
        """Wrap the methods of this instance; its class is not touched."""
        for modality, name in METHODS.items():
            method = getattr(self._module, name, None)
            if method is not None and name not in vars(self._module):
                setattr(self._module, name, self._wrap(modality, method))
                self._wrapped.append(name)

    def close(self) -> None:
        """Give the instance its class's methods back. Safe to call twice."""
        for name in self._wrapped:
            vars(self._module).pop(name, None)
        self._wrapped = []
        self._local = threading.local()

    def _wrap(self, modality: str, method: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(method)

        @functools.wraps(method)
        def remembering(*args: Any, **kwargs: Any) -> Any:
            self._before()
            bound = signature.bind_partial(*args, **kwargs)
            extra = next(
                (n for n, p in signature.parameters.items() if p.kind is p.VAR_KEYWORD), None
            )
            arguments = dict(bound.arguments)
            arguments.update(arguments.pop(extra, {}) if extra else {})
            self.seen[modality] = arguments
            try:
                return method(*args, **kwargs)
            except BaseException:
                self.seen.pop(modality, None)
                self._failed()
                raise

        return remembering
