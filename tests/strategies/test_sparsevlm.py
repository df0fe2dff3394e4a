"""SparseVLM: laws, slow reference, published counts, raters."""

import pytest
import torch
from references import DIFFERENCES, counts_after

from lightkv import Stage, VisionLayout
from lightkv.core.contracts import EmbeddingsInput
from lightkv.core.errors import ConfigError
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.functional import compress_stage
from lightkv.strategies.sparsevlm import Recycle, TextRaters
from lightkv.testing import OrderFreeSuite, StrategySuite

MEAN = {"name": "weighted-mean", "weights": "uniform"}


class TestSparseVLM(OrderFreeSuite):
    preset = "sparsevlm"


class TestSparseVLMPaper(StrategySuite):
    preset = {
        "partitioner": {"name": "whole", "scope": "sample"},
        "scorer": {"name": "text-raters", "threshold": "inclusive"},
        "matcher": {"name": "top-k-clusters", "assign": "cosine"},
        "aggregator": "sum",
    }


class TestSparseVLMRank(StrategySuite):
    preset = {
        "scorer": "text-raters",
        "matcher": {"name": "top-k-clusters", "budget": "rank", "scale": 0.7},
        "aggregator": MEAN,
    }


@pytest.mark.parametrize("name", [n for n in DIFFERENCES if n.startswith("sparsevlm")])
def test_it_agrees_with_the_slow_reference(name):
    assert DIFFERENCES[name]() <= 1e-5


def test_the_published_counts():
    """Kept tokens and clusters of the list called "192"."""
    matcher = Recycle()
    assert matcher.split(576, 309) == (300, 9)
    assert matcher.split(309, 204) == (200, 4)
    assert matcher.split(204, 113) == (110, 3)
    pipeline = Pipeline.build("sparsevlm", 32, retention=0.359)
    assert pipeline.schedule.after_layers == (3, 7, 16)
    assert counts_after(pipeline, (24, 24)) == [309, 204, 113]


@pytest.mark.parametrize("population", [1, 2, 3, 11, 40, 333])
def test_every_budget_is_split_exactly(population):
    matcher = Recycle()
    for keep in range(population):
        kept, clusters = matcher.split(population, keep)
        assert kept + clusters == keep
        assert clusters <= population - kept


def raters(hidden, layout, **parameters):
    layout = layout.with_length(hidden.shape[1])
    return TextRaters(**parameters).read_embeddings(EmbeddingsInput.of(hidden, layout))


def test_raters_are_the_text_tokens_that_look_like_the_image():
    hidden = torch.zeros(1, 9, 4)
    hidden[0, 1:5, 0] = 2.0  # the image
    hidden[0, 0, 0] = 9.0  # text before it never rates
    hidden[0, 6, 0] = hidden[0, 8, 0] = 2.0
    layout = VisionLayout.from_spans([[(1, (1, 2, 2))]])
    assert raters(hidden, layout).tolist() == [[0, 0, 1, 0, 1]]


@pytest.mark.parametrize("threshold", ["strict", "inclusive"])
def test_one_text_token_rates_alone(threshold):
    layout = VisionLayout.from_spans([[(1, (1, 2, 2))]])
    assert raters(torch.randn(1, 6, 4), layout, threshold=threshold).tolist() == [[0, 1]]


def test_equal_text_rates_only_where_the_mean_is_enough():
    hidden = torch.zeros(1, 9, 4)
    hidden[0, 1:5, 0] = 2.0
    hidden[0, 5, 0] = 2.0
    hidden[0, 6:8, 1] = 2.0
    layout = VisionLayout.from_spans([[(1, (1, 2, 2))]])
    assert raters(hidden, layout).tolist() == [[0, 1, 0, 0, 0]]


def test_without_text_after_the_image_nothing_rates():
    layout = VisionLayout.from_spans([[(2, (1, 2, 2))]])
    assert raters(torch.randn(1, 6, 4), layout).sum() == 0


def test_the_rank_budget_follows_values_and_stays_below_the_ratio():
    torch.manual_seed(2)
    hidden, query, key = torch.randn(1, 80, 8), torch.randn(1, 4, 80, 4), torch.randn(1, 2, 80, 4)
    layout = VisionLayout.from_spans([[(2, (1, 8, 8))]])

    def left(**parameters):
        stage = Stage.preset(
            "sparsevlm",
            ratio=0.25,
            matcher={"name": "top-k-clusters", "budget": "rank", **parameters},
        )
        return compress_stage(hidden, layout, stage, query=query, key=key).layout.vision_counts[0]

    assert left(scale=0.1) == 48  # the ratio binds
    assert left(scale=0.8) < left(scale=0.5) < 48


def test_raters_need_attention():
    with pytest.raises(ConfigError):
        Pipeline.build(
            {"scorer": "text-raters", "matcher": "top-k"},
            4,
            schedule=[{"after_layer": 0, "ratio": 0.5}],
        )
