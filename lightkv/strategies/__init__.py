"""Published methods, one file each; what several of them share is in `components/`.

A method is its components and its preset (`PRESET`, or `PRESETS` where it has several). Both are
registered here, through the hooks that a stranger's plugin uses.
"""

from __future__ import annotations

from collections.abc import Callable

from lightkv.core.contracts import Component
from lightkv.core.hookspecs import hookimpl
from lightkv.core.pipeline.pipeline import PipelineSpec
from lightkv.core.plugins import defined_in
from lightkv.strategies import (
    dart,
    divprune,
    elastic_cache,
    fastervlm,
    fastv,
    hired,
    lightkv,
    lightkv_plus,
    lightkv_release,
    pitome,
    prumerge,
    pyramiddrop,
    rand,
    random,
    sparsevlm,
    tofu,
    tome,
    tome_cache,
    visionzip,
    vispruner,
)
from lightkv.strategies.components import (
    adaptive_bipartite,
    aggregators,
    attention_scorers,
    bipartite,
    class_attention,
    guided,
    matcher_wrappers,
    plain_scorers,
    positions,
    scorer_wrappers,
    tiles,
    top_k,
    windows,
)

COMPONENTS = (
    windows,
    tiles,
    plain_scorers,
    attention_scorers,
    class_attention,
    scorer_wrappers,
    top_k,
    bipartite,
    guided,
    adaptive_bipartite,
    matcher_wrappers,
    aggregators,
    positions,
)
METHODS = (
    lightkv,
    lightkv_release,
    lightkv_plus,
    fastv,
    pitome,
    tofu,
    pyramiddrop,
    sparsevlm,
    dart,
    tome,
    random,
    hired,
    visionzip,
    prumerge,
    divprune,
    vispruner,
    fastervlm,
    rand,
    tome_cache,
    elastic_cache,
)


@hookimpl
def lightkv_components(register: Callable[[type[Component]], None]) -> None:
    for module in (*COMPONENTS, *METHODS):
        for component in defined_in(module, Component):
            register(component)


@hookimpl
def lightkv_presets(register: Callable[[PipelineSpec], None]) -> None:
    for module in METHODS:
        for preset in getattr(module, "PRESETS", None) or (module.PRESET,):
            register(preset)
