"""The hooks of a lightkv plugin. Built-in strategies and adapters use the same ones.

A plugin is an importable module (or object) with any of these functions, marked with
`lightkv.hookimpl` and named in the entry-point group `lightkv`:

    [project.entry-points.lightkv]
    my-plugin = "my_package.my_module"
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import pluggy

if TYPE_CHECKING:
    from torch import nn

    from lightkv.core.contracts import Component

PROJECT = "lightkv"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@runtime_checkable
class Preset(Protocol):
    """What the registry knows of a preset; it is a `lightkv.PipelineSpec`."""

    name: str
    source: str

    def roles(self) -> dict[str, Any]: ...

    def to_yaml(self) -> str: ...


@runtime_checkable
class ModelFamily(Protocol):
    """What the registry knows of an adapter; it is a `lightkv.core.run.adapter.Adapter`."""

    name: str
    models: str

    def matches(self, model: nn.Module) -> bool: ...


@hookspec
def lightkv_components(register: Callable[[type[Component]], None]) -> None:
    """Call `register(cls)` for each component class (partitioner, scorer, matcher, …)."""


@hookspec
def lightkv_presets(register: Callable[[Preset], None]) -> None:
    """Call `register(spec)` for each preset: a `PipelineSpec`, a named composition of components."""


@hookspec
def lightkv_adapters(register: Callable[[ModelFamily], None]) -> None:
    """Call `register(adapter)` for each adapter; later plugins are asked first."""
