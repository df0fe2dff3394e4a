"""The references tell variants apart: a switch that did nothing would be found."""

import numpy as np
import pytest
from reference_methods import (
    dart,
    guided,
    mixed_means,
    pitome,
    protected,
    pyramiddrop,
    sparsevlm,
    tofu,
)
from references import BY_COSINE, CODE_ENERGY, DESTINATION, RANK, _compare, _own, _preset

CROSSED = {
    "energy": (lambda s: pitome(s, "paper", 0.7, 0.5, 0.4), _preset("pitome", scorer=CODE_ENERGY)),
    "margin": (pitome, _preset("pitome", scorer={"name": "energy", "margin": 0.4})),
    "norm": (tofu, _preset("tofu", aggregator=DESTINATION)),
    "prune": (tofu, _preset("tofu", aggregator={"name": "fusion", "mode": "prune"})),
    "sum": (sparsevlm, _preset("sparsevlm", aggregator="sum")),
    "cosine": (sparsevlm, _preset("sparsevlm", matcher=BY_COSINE)),
    "raters": (sparsevlm, _preset("sparsevlm", scorer="causal-attention")),
    "rank": (sparsevlm, _preset("sparsevlm", matcher=RANK)),
    "row": (pyramiddrop, _preset("pyramiddrop", scorer="causal-attention")),
    "threshold": (dart, _preset("dart", matcher={"name": "pivots", "threshold": 0.6})),
    "pivots": (dart, _preset("dart", matcher={"name": "pivots", "text_pivots": 0})),
    "protect": (lambda s: protected(s, 0.2), _own(matcher={"name": "guided", "protect": 0.2})),
    "guided": (guided, _own(matcher="bipartite")),
    "weights": (
        lambda s: mixed_means(s, lambda a, b: np.ones_like(a)),
        _own(matcher="bipartite", scorer={"name": "product", "of": ["last-token", "size"]}),
    ),
}


@pytest.mark.parametrize("name", CROSSED)
def test_another_variant_differs(name):
    reference, roles = CROSSED[name]
    assert _compare(reference, roles, most=0.4)() > 1e-3
