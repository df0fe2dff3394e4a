"""The hooks of a lightkv plugin. Built-in strategies and adapters use the same ones.

A plugin is an importable module (or object) with any of these functions, marked with
`lightkv.hookimpl` and named in the entry-point group `lightkv`:

    [project.entry-points.lightkv]
    my-plugin = "my_package.my_module"
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from lightkv.core.contracts import Component
    from lightkv.core.pipeline.pipeline import PipelineSpec
    from lightkv.core.run.adapter import Adapter

PROJECT = "lightkv"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def lightkv_components(register: Callable[[type[Component]], None]) -> None:
    """Call `register(cls)` for each component class (partitioner, scorer, matcher, …)."""


@hookspec
def lightkv_presets(register: Callable[[PipelineSpec], None]) -> None:
    """Call `register(spec)` for each preset: a named composition of components."""


@hookspec
def lightkv_adapters(register: Callable[[Adapter], None]) -> None:
    """Call `register(adapter)` for each adapter; later plugins are asked first."""
