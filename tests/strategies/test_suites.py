"""Every built-in preset, and compositions of the loose components, through the public suite."""

import importlib
from pathlib import Path

import pytest
import torch
from hypothesis import given

from lightkv.core.contracts import Matcher, Merged
from lightkv.core.errors import ConfigError
from lightkv.core.plugins import registry
from lightkv.core.stage.stage import Stage
from lightkv.strategies.components.aggregators import Drop
from lightkv.testing import Case, Chain, OrderFreeSuite, StrategySuite, cases, check_strategy, laws
from lightkv.testing.cases import SampleShape


class TestLightKV(StrategySuite):
    preset = "lightkv"
    temporal = True


class TestLightKVRelease(StrategySuite):
    preset = "lightkv-release"
    modalities = ("image", "video")  # a square of pictures says nothing of audio


class TestFastV(OrderFreeSuite):
    preset = "fastv"


class TestToMe(StrategySuite):
    preset = "tome"


class TestToMeKeys(StrategySuite):
    preset = {
        "matcher": {"name": "bipartite", "metric": "keys"},
        "aggregator": {"name": "weighted-mean", "weights": "size"},
    }


class TestRandom(StrategySuite):
    preset = "random"


class TestRandomMatching(StrategySuite):
    preset = {
        "partitioner": "windows",
        "scorer": "prompt-attention",
        "matcher": "random-bipartite",
        "aggregator": "weighted-mean",
        "schedule": [{"after_layer": 1, "ratio": 0.5, "windows": 2}],
    }
    temporal = True


class TestRand(StrategySuite):
    preset = "rand"


class TestImgRand(StrategySuite):
    preset = "imgrand"


class TestToMeCache(StrategySuite):
    preset = "tome-cache"


class TestElasticCache(StrategySuite):
    preset = "elastic-cache"


class TestWindowedDropByKeys(StrategySuite):
    """Top-k in windows with the paper's normalisation."""

    preset = {
        "partitioner": "windows",
        "scorer": {"name": "prompt-attention", "normalize": "keys"},
        "matcher": {"name": "top-k", "rounding": "floor"},
        "schedule": [{"after_layer": 1, "ratio": 0.5, "windows": 2}],
    }
    temporal = True


class TestCausalMeanByImage(StrategySuite):
    preset = {
        "partitioner": {"name": "whole", "scope": "image"},
        "scorer": "causal-attention",
        "matcher": "bipartite",
        "aggregator": "weighted-mean",
    }


def test_every_preset_has_a_suite():
    """In this file or in the method's own."""
    files = sorted(Path(__file__).parent.glob("test_*.py"))
    names = [vars(importlib.import_module(file.stem)) for file in files]
    found = [value for module in names for value in module.values() if isinstance(value, type)]
    own = [value for value in found if issubclass(value, StrategySuite)]
    tested = {suite.preset for suite in own if isinstance(getattr(suite, "preset", None), str)}
    built_in = {name for name, e in registry().presets.items() if e.package == "lightkv"}
    assert built_in <= tested


# -- the suite itself must catch methods that break a law --------------------------------------


CASE = Case((SampleShape((2, 3), ((1, 4, 4, False),)), SampleShape((4,), ())), (None,), 0.5, 3)


class KeepsOneTooMany(Matcher):
    name = "keeps-one-too-many"

    def match(self, inputs):
        places = torch.arange(inputs.tokens.shape[1])
        target = torch.where(places <= inputs.keep, places, -1)
        return target.expand(inputs.tokens.shape[0], -1)


class Doubles(Drop):
    name = "doubles"

    def merge(self, inputs):
        kept = inputs.tokens.gather(
            1, inputs.survivors.unsqueeze(-1).expand(-1, -1, inputs.tokens.shape[-1])
        )
        return Merged(2 * kept, super().merge(inputs).share)


def test_the_suite_catches_an_aggregator_that_is_not_convex():
    roles = {"scorer": "uniform", "matcher": "top-k", "partitioner": "whole"}
    stage = Stage.from_roles({**roles, "aggregator": Doubles()}, ratio=0.5, windows=None)
    chain = Chain.run([stage], CASE.hidden(), CASE.layout())
    with pytest.raises(AssertionError, match="stage 0 of the chain, aggregator 'doubles'"):
        laws.check_convexity(chain.steps[0], 1e-5)


def test_the_suite_catches_a_matcher_that_keeps_one_too_many():
    roles = {"scorer": "uniform", "matcher": KeepsOneTooMany(), "aggregator": "drop"}
    stage = Stage.from_roles({**roles, "partitioner": "whole"}, ratio=0.5, windows=None)
    words = "matcher 'keeps-one-too-many' kept 9 of 16 tokens of a window and must keep 8"
    with pytest.raises(ConfigError, match=words):
        Chain.run([stage], CASE.hidden(), CASE.layout())


@given(case=cases(windowed=False, max_ratio=0.9))
def test_check_strategy_runs_on_plain_data(case):
    chain = check_strategy({"scorer": "size", "matcher": "top-k"}, case)
    assert len(chain.steps) == 2


def test_an_error_about_windows_names_the_attribute_of_the_suite():
    """Without hypothesis, which would look for the smallest batch that fails."""
    spec = {"partitioner": "windows", "matcher": "bipartite", "aggregator": "drop"}
    row = SampleShape((1, 1), ((1, 4, 4, False),), ("image",))
    case = Case((row,), (None,), 0.5, 0)

    class Suite(StrategySuite):
        preset = spec

        def case(self, data):
            return case

    law = Suite.test_repeats_exactly_and_changes_no_input.hypothesis.inner_test
    with pytest.raises(ConfigError, match="how many") as caught:
        law(Suite(), data=None)
    assert any("class attribute `windows`" in note for note in caught.value.__notes__)
