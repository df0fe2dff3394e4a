"""What the property suite says of a method that breaks a law: which stage, which component, and how.

Without hypothesis, which would look for the smallest batch that fails.
"""

import pytest
import torch

from lightkv.core.contracts import Matcher, Merged
from lightkv.core.errors import ConfigError
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe
from lightkv.core.plugins import Registry, registry
from lightkv.strategies.components.aggregators import Drop
from lightkv.strategies.components.plain_scorers import Size
from lightkv.strategies.components.top_k import TopK
from lightkv.testing import Case, StrategySuite, strategies
from lightkv.testing.cases import SampleShape, stages_of, windowed_stages

ROW = SampleShape((1, 1), ((1, 4, 4, False),), ("image",))
OTHER = SampleShape((2, 1), ((1, 3, 4, False),), ("image",))
CASE = Case((ROW, OTHER), (None, None), 0.5, 0)


class Raises(Matcher):
    name = "raises"

    def match(self, inputs):
        raise RuntimeError("no idea")


class OneTooMany(Matcher):
    name = "one-too-many"

    def match(self, inputs):
        at = torch.arange(inputs.tokens.shape[1])
        return torch.where(at <= inputs.keep, at, -1).expand(inputs.tokens.shape[0], -1)


class Masked(TopK):
    name = "masked"

    def match(self, inputs):
        inputs.tokens[inputs.score > 0.5]
        return super().match(inputs)


class Items(TopK):
    name = "items"

    def match(self, inputs):
        inputs.score.sum().item()
        return super().match(inputs)


class Looks(Matcher):
    """Keeps the first tokens of a window, or the last ones where the batch has several rows."""

    name = "looks-around"
    needs_surroundings = True

    def match(self, inputs):
        first = torch.arange(inputs.tokens.shape[1])
        if inputs.around.hidden_states.shape[0] > 1:
            first = first.flip(0)
        at = torch.arange(inputs.tokens.shape[1])
        return torch.where(first < inputs.keep, at, -1).expand(inputs.tokens.shape[0], -1)


class Unseeded(Size):
    name = "unseeded"

    def score(self, inputs):
        return torch.rand(inputs.size.shape, dtype=torch.float32)


class Stretched(Drop):
    name = "stretched"

    def merge(self, inputs):
        index = inputs.survivors.unsqueeze(-1).expand(-1, -1, inputs.tokens.shape[-1])
        return Merged(2 * inputs.tokens.gather(1, index), super().merge(inputs).share)


class Negative(Drop):
    name = "negative"
    convex = False

    def merge(self, inputs):
        return Merged(None, super().merge(inputs).share - 1.0)


class ByValues(TopK):
    name = "by-values"

    @property
    def dynamic(self):
        return True

    def count(self, inputs):
        return torch.full_like(inputs.row, inputs.keep)


OWN = (Raises, OneTooMany, Masked, Items, Looks, Unseeded, Stretched, Negative, ByValues)
LAWS = {
    "laws": "test_every_step_obeys_the_laws",
    "meta": "test_shapes_follow_from_layouts",
    "rows": "test_samples_do_not_see_each_other",
    "repeat": "test_repeats_exactly_and_changes_no_input",
    "zero": "test_ratio_zero_is_the_identity",
    "whole": "test_provenance_composes",
    "half": "test_half_precision_and_gradients",
}


@pytest.fixture(autouse=True)
def components(monkeypatch):
    """They are registered for the length of a test."""
    known: Registry = registry()
    table = {**known.components}
    monkeypatch.setattr(known, "components", table)
    for cls in OWN:
        known._add_component(cls, "tests")


def two_stages(**second):
    """The second stage has a component of its own."""
    recipe = Recipe(depths=(0.25, 0.5), overrides=({}, second))
    return PipelineSpec(scorer="last-token", matcher="top-k", schedule=recipe)


def suite_of(spec, case=CASE):
    class Suite(StrategySuite):
        preset = spec

        def case(self, data):
            return case

    return Suite()


def run_law(name, spec):
    suite = suite_of(spec)
    getattr(type(suite), LAWS[name]).hypothesis.inner_test(suite, data=None)


def notes(error):
    return " ".join(getattr(error, "__notes__", ()))


@pytest.mark.parametrize("name", [name for name in LAWS if name != "zero"])
def test_every_law_runs_the_second_stage(name):
    with pytest.raises(RuntimeError, match="no idea") as caught:
        run_law(name, two_stages(matcher="raises"))
    assert "In match of matcher 'raises', stage 1." in notes(caught.value)
    assert "Stage 1 of the chain (from 0) has partitioner 'whole'" in notes(caught.value)


@pytest.mark.parametrize("name", LAWS)
def test_a_sound_second_stage_passes(name):
    run_law(
        name, two_stages(scorer="causal-attention", matcher="bipartite", aggregator="weighted-mean")
    )


BROKEN = [
    ("laws", {"aggregator": "stretched"}, "aggregator 'stretched': .* is not the sum of its slot"),
    ("laws", {"aggregator": "negative"}, r"aggregator 'negative': .* has a share of -1; wanted"),
    ("whole", {"aggregator": "stretched"}, "aggregator 'stretched': tokens are .* from the sums"),
    (
        "rows",
        {"matcher": "looks-around"},
        "matcher 'looks-around': row 0 of a batch of 2 has other",
    ),
    ("repeat", {"scorer": "unseeded"}, "scorer 'unseeded': it gives other importances in a second"),
]


@pytest.mark.parametrize(("name", "second", "words"), BROKEN)
def test_a_broken_law_names_stage_role_and_component(name, second, words):
    with pytest.raises(AssertionError, match="stage 1 of the chain, " + words):
        run_law(name, two_stages(**second))


def test_survivors_are_counted_first():
    words = (
        "stage 1, window 1, .*matcher 'one-too-many' kept 4 of 6 tokens of a window and must keep 3"
    )
    with pytest.raises(ConfigError, match=words):
        run_law("laws", two_stages(matcher="one-too-many"))


@pytest.mark.parametrize("name", ["masked", "items"])
def test_an_operation_that_needs_values_is_told_the_rule(name):
    with pytest.raises((RuntimeError, NotImplementedError)) as caught:
        run_law("meta", two_stages(matcher=name))
    assert f"matcher {name!r}, stage 1" in notes(caught.value)
    assert "boolean-mask indexing, nonzero" in caught.value.__notes__[-1]
    assert "Rules of docs/writing-a-strategy.md" in caught.value.__notes__[-1]


def test_a_dynamic_budget_of_the_second_stage_is_refused_on_meta():
    run_law("meta", two_stages(matcher="by-values"))
    run_law("laws", two_stages(matcher="by-values"))


def test_stages_have_their_own_components_and_windows():
    later = {"partitioner": "whole", "matcher": {"name": "guided", "split": "importance"}}
    recipe = Recipe(windows=(4, None), overrides=({}, later))
    spec = PipelineSpec(partitioner="windows", scorer="size", matcher="bipartite", schedule=recipe)
    stages = stages_of(spec, (2, None, None), 0.5)
    assert [stage.matcher.name for stage in stages] == ["bipartite", "guided", "guided"]
    assert windowed_stages(spec, 3) == (True, False, False)
    explicit = [
        {"after_layer": 1, "ratio": 0.5, "windows": 4},
        {"after_layer": 2, "ratio": 0.5, "overrides": later},
        {"after_layer": 3, "ratio": 0.5, "overrides": later},
    ]
    data = {**spec.model_dump(), "schedule": explicit}
    spec = PipelineSpec.parse(data)
    assert spec.overrides == ({}, later)
    assert [stage.matcher.name for stage in stages_of(spec, (2, None), 0.5)] == [
        "bipartite",
        "guided",
    ]


def test_as_many_stages_are_drawn_as_have_components_of_their_own(monkeypatch):
    own = ({}, {"scorer": "size"}, {"partitioner": "whole"})
    recipe = Recipe(windows=(2, 2, None), overrides=own)

    class Suite(StrategySuite):
        preset = PipelineSpec(partitioner="windows", matcher="bipartite", schedule=recipe)

    class Fixed(Suite):
        windows = (2,)

    class Data:
        def draw(self, arguments):
            return arguments

    monkeypatch.setattr(strategies, "cases", lambda **arguments: arguments)
    asked = Suite().case(Data())
    assert asked["windows"] is None
    assert asked["windowed"] == (True, True, False)
    assert asked["max_ratio"] == 0.5
    assert Fixed().case(Data())["windows"] == (2, 2, 2)
