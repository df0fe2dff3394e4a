"""Published methods, one file each; what several of them share is in `components/`.

A method is its components and its preset (`PRESET`, or `PRESETS` where it has several). Both are
registered here, through the hooks that a stranger's plugin uses.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from types import ModuleType

from lightkv.core.contracts import Component
from lightkv.core.hookspecs import hookimpl
from lightkv.core.pipeline.pipeline import PipelineSpec
from lightkv.core.plugins import defined_in

COMPONENTS = (
    "components.windows",
    "components.tiles",
    "components.plain_scorers",
    "components.attention_scorers",
    "components.class_attention",
    "components.frames",
    "components.scorer_wrappers",
    "components.top_k",
    "components.bipartite",
    "components.guided",
    "components.adaptive_bipartite",
    "components.matcher_wrappers",
    "components.aggregators",
    "components.positions",
)
METHODS = (
    "lightkv",
    "lightkv_release",
    "lightkv_plus",
    "lightkv_lean",
    "fastv",
    "pitome",
    "tofu",
    "pyramiddrop",
    "sparsevlm",
    "dart",
    "tome",
    "random",
    "hired",
    "visionzip",
    "prumerge",
    "divprune",
    "vispruner",
    "fastervlm",
    "evs",
    "dycoke",
    "fastvid",
    "framefusion",
    "holitom",
    "cdpruner",
    "hiprune",
    "vscan",
    "autoprune",
    "rand",
    "tome_cache",
    "elastic_cache",
)
"""In the order in which `lightkv strategies` lists them."""


def _modules(names: Iterable[str]) -> list[ModuleType]:
    return [importlib.import_module(f"{__name__}.{name}") for name in names]


@hookimpl
def lightkv_components(register: Callable[[type[Component]], None]) -> None:
    for module in _modules((*COMPONENTS, *METHODS)):
        for component in defined_in(module, Component):
            register(component)


@hookimpl
def lightkv_presets(register: Callable[[PipelineSpec], None]) -> None:
    for module in _modules(METHODS):
        for preset in getattr(module, "PRESETS", None) or (module.PRESET,):
            register(preset)
