"""CDPruner against its formulas, and the laws of every method."""

import numpy as np
import pytest
import torch
from references_pictures import REFERENCES

from lightkv.core.stage.stage import Stage
from lightkv.strategies.cdpruner import greedy_volume
from lightkv.testing import StrategySuite


class TestCDPruner(StrategySuite):
    preset = "cdpruner"


@pytest.mark.parametrize("name", [name for name in REFERENCES if name.startswith("cdpruner")])
def test_equals_the_slow_reference(name):
    assert max(REFERENCES[name](seed) for seed in range(6)) < 1e-5


@pytest.mark.parametrize("seed", range(3))
def test_each_choice_enlarges_the_determinant_most(seed):
    """The definition itself: of all tokens the one with the largest det of the kernel with it."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(20, 32))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    r = rng.uniform(0.1, 1.0, size=20)
    kernel = r[:, None] * (features @ features.T) * r[None]
    chosen = []
    for _ in range(12):
        volume = {
            i: np.linalg.slogdet(kernel[np.ix_([*chosen, i], [*chosen, i])])[1]
            for i in range(20)
            if i not in chosen
        }
        chosen.append(max(volume, key=volume.get))
    tokens = torch.tensor(features, dtype=torch.float32)[None]
    found = greedy_volume(tokens, torch.tensor(r**2, dtype=torch.float32)[None], 12)
    assert found[0].tolist() == chosen


def test_a_wrapper_says_that_the_scorer_inside_looks_at_the_text():
    inner = ["uniform", "text-relevance"]
    scorers = [
        Stage.preset("cdpruner", scorer=s).scorer for s in (*inner, {"name": "sum", "of": inner})
    ]
    assert [scorer.needs_prompt for scorer in scorers] == [False, True, True]


def test_beyond_the_rank_the_most_relevant_follow():
    """Three directions and their copies: after one of each, what is left comes by relevance."""
    features = torch.eye(3).repeat(3, 1)[None]
    quality = torch.tensor([[0.1, 0.2, 0.3, 0.7, 0.8, 0.9, 0.4, 0.5, 0.6]])
    assert greedy_volume(features, quality, 9)[0].tolist() == [5, 4, 3, 8, 7, 6, 2, 1, 0]


def test_tokens_that_are_all_alike_or_zero_meet_the_budget():
    for features in (torch.ones(2, 6, 4) / 2, torch.zeros(2, 6, 4)):
        assert greedy_volume(features, torch.ones(2, 6), 4).tolist() == [[0, 1, 2, 3]] * 2
