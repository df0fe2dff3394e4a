"""Strategies on the cache against references straight from their definitions."""

import pytest
from references_cache import elastic_difference, rand_difference, tome_difference

RATIOS = (0.1, 0.35, 0.5, 0.8, 0.93)
seeds = pytest.mark.parametrize("seed", range(3))


@seeds
@pytest.mark.parametrize("ratio", RATIOS)
def test_rand(ratio, seed):
    assert rand_difference(ratio, seed) == pytest.approx(0, abs=1e-7)
    assert rand_difference(ratio, seed, preset="imgrand") == pytest.approx(0, abs=1e-7)


@seeds
@pytest.mark.parametrize("ratio", RATIOS)
def test_elastic_cache(ratio, seed):
    assert elastic_difference(ratio, seed) <= 1e-5


@seeds
@pytest.mark.parametrize("ratio", RATIOS)
def test_tome_cache(ratio, seed):
    assert tome_difference(ratio, seed) <= 1e-5
