"""Strategies against their slow references: the largest difference of each.

`DIFFERENCES` maps a method's name to a function that returns the largest absolute difference between
the strategy and its reference (infinity if other tokens survive):

    python tests/strategies/references.py        # prints the table
"""

from __future__ import annotations

import math

import numpy as np
import torch
from reference_methods import (
    BEFORE,
    adaptive,
    dart,
    gathered,
    guided,
    mixed_means,
    pitome,
    protected,
    pyramiddrop,
    setups,
    sparsevlm,
    tofu,
)

from lightkv import Stage, VisionLayout
from lightkv.core.contracts import StageContext
from lightkv.core.plugins import get_preset
from lightkv.functional import compress_stage


def run(setup, roles):
    """{vision token: vector} of the strategy itself."""
    layout = VisionLayout.from_spans([[(BEFORE, (1, *setup.grid))]])
    stage = Stage.from_roles(roles, ratio=setup.ratio, windows=None)
    result = compress_stage(
        torch.from_numpy(setup.hidden)[None],
        layout,
        stage,
        query=torch.from_numpy(setup.query)[None],
        key=torch.from_numpy(setup.key)[None],
        size=torch.from_numpy(setup.size),
        embeddings=torch.from_numpy(setup.start)[None],
        context=StageContext(
            after_layer=setup.layer, num_layers=setup.layers, stage=0, ratio=setup.ratio
        ),
    )
    flat = result.layout.token_index(torch.device("cpu")).flat
    vectors = result.hidden_states[0][flat].double().numpy()
    survivors = result.assignment.survivor.numpy()
    return {int(s): v for s, v in zip(survivors, vectors, strict=True)}


def largest(found, wanted):
    """Largest absolute difference; infinity if other tokens survived."""
    if set(found) != set(wanted):
        return math.inf
    return max((float(np.abs(found[s] - wanted[s]).max()) for s in wanted), default=0.0)


def counts_after(pipeline, grid):
    """Vision tokens of an image of `grid` cells after each stage of a pipeline."""
    layout = VisionLayout.from_spans([[(5, (1, *grid))]]).with_length(700)
    found = []
    for placed in pipeline.stages:
        (step,) = placed.planned(layout)
        layout = step.after()
        found.append(step.plan.counts_after[0])
    return found


# -- the table ---------------------------------------------------------------------------------


def _preset(name, **changes):
    return {**get_preset(name).roles(), **changes}


def _compare(reference, roles, *, most=0.5, layer=0, layers=None):
    def reference_difference() -> float:
        return max(
            largest(run(setup, roles), reference(setup))
            for setup in setups(most, layer=layer, layers=layers)
        )

    return reference_difference


def _own(**roles):
    base = {"partitioner": "whole", "scorer": "last-token", "aggregator": "weighted-mean"}
    return {**base, **roles}


RANK = {"name": "top-k-clusters", "budget": "rank", "scale": 0.5}
CODE_ENERGY = {"name": "energy", "branch": "code", "alpha": 0.7, "margin": 0.5, "slope": 0.4}
DESTINATION = {"name": "fusion", "divisor": "destination"}
PAPER_RATERS = {"name": "text-raters", "threshold": "inclusive"}
BY_COSINE = {"name": "top-k-clusters", "assign": "cosine"}

DIFFERENCES = {
    "pitome": _compare(pitome, _preset("pitome"), layer=12, layers=32),
    "pitome, code energy": _compare(
        lambda s: pitome(s, "code", 0.7, 0.5, 0.4),
        _preset("pitome", scorer=CODE_ENERGY),
        layer=20,
        layers=32,
    ),
    "tofu, early stage": _compare(tofu, _preset("tofu"), layer=16, layers=32),
    "tofu, late stage": _compare(tofu, _preset("tofu"), layer=17, layers=32),
    "tofu, destination norm": _compare(
        lambda s: tofu(s, "destination"), _preset("tofu", aggregator=DESTINATION)
    ),
    "pyramiddrop": _compare(pyramiddrop, _preset("pyramiddrop"), most=0.9),
    "pyramiddrop, last layer": _compare(
        pyramiddrop, _preset("pyramiddrop", scorer="last-token"), most=0.9
    ),
    "sparsevlm": _compare(sparsevlm, _preset("sparsevlm"), most=0.9),
    "sparsevlm, paper clusters": _compare(
        lambda s: sparsevlm(s, False, "cosine", "sum"),
        _preset("sparsevlm", scorer=PAPER_RATERS, matcher=BY_COSINE, aggregator="sum"),
        most=0.9,
    ),
    "sparsevlm, rank budget": _compare(
        lambda s: sparsevlm(s, scale=0.5), _preset("sparsevlm", matcher=RANK), most=0.9
    ),
    "dart": _compare(dart, _preset("dart"), most=0.9),
    "dart, threshold": _compare(
        lambda s: dart(s, 0.6),
        _preset("dart", matcher={"name": "pivots", "threshold": 0.6}),
        most=0.9,
    ),
    "guided": _compare(guided, _own(matcher="guided")),
    "guided, protect": _compare(
        lambda s: guided(s, 0.2), _own(matcher={"name": "guided", "protect": 0.2}), most=0.4
    ),
    "guided, split by importance": _compare(
        lambda s: guided(s, split="importance"),
        _own(matcher={"name": "guided", "split": "importance"}),
    ),
    "adaptive-bipartite, weighted-causal-attention": _compare(
        lambda s: adaptive(s, 0.2),
        _own(
            scorer="weighted-causal-attention",
            matcher={"name": "adaptive-bipartite", "divergence": 0.2},
        ),
    ),
    "protect": _compare(
        lambda s: protected(s, 0.2),
        _own(matcher={"name": "protect", "of": "bipartite", "share": 0.2}),
        most=0.4,
    ),
    "recycle": _compare(gathered, _own(matcher={"name": "recycle", "of": "top-k"}), most=0.9),
    "product": _compare(
        lambda s: mixed_means(s, lambda a, b: a * b),
        _own(matcher="bipartite", scorer={"name": "product", "of": ["last-token", "size"]}),
    ),
    "sum": _compare(
        lambda s: mixed_means(s, lambda a, b: a + 2 * b),
        _own(
            matcher="bipartite",
            scorer={"name": "sum", "of": ["last-token", "size"], "weights": [1, 2]},
        ),
    ),
    "floor": _compare(
        lambda s: mixed_means(s, lambda a, b: np.maximum(a, 0.9)),
        _own(matcher="bipartite", scorer={"name": "floor", "of": "last-token", "share": 0.9}),
    ),
    "warm-start": _compare(
        lambda s: mixed_means(s, lambda a, b: b),
        _own(
            matcher="bipartite",
            scorer={"name": "warm-start", "of": "last-token", "first": "size"},
        ),
    ),
}
"""Name → function that returns the largest difference from the reference."""


if __name__ == "__main__":
    for name, reference_difference in DIFFERENCES.items():
        print(f"{name:46s} {reference_difference():.1e}")
