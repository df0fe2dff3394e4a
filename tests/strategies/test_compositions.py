"""Any scorer with any matcher with any aggregator: it obeys the laws, or is refused when it is built."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightkv.core.errors import ConfigError
from lightkv.core.needs import Source, needs_from
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.core.plugins import build_component, registry
from lightkv.testing import StrategySuite, cases
from lightkv.testing.cases import Chain
from lightkv.testing.laws import (
    check_assignment,
    check_budget,
    check_convexity,
    check_layout,
    check_order,
    check_text,
)

INNER = {"floor", "product", "sum", "warm-start", "protect", "recycle"}


def reads_the_decoder(component):
    """Whether it runs without a vision encoder, which `compress_stage` has none of."""
    space = getattr(component, "space", "decoder")
    return space == "decoder" and not needs_from(component.needs(), Source.ENCODER)


def names(role):
    """Built-in components that have defaults for all parameters, and need no encoder."""
    found = []
    for (of, name), entry in sorted(registry().components.items()):
        if of != role or entry.package != "lightkv" or name in INNER:
            continue
        if reads_the_decoder(build_component(role, name)):
            found.append(name)
    return found


SCORERS, MATCHERS, AGGREGATORS = names("scorer"), names("matcher"), names("aggregator")


def scorers(depth=2):
    plain = st.sampled_from(SCORERS)
    if depth == 0:
        return plain
    inner = scorers(depth - 1)
    pair = st.lists(inner, min_size=2, max_size=2)
    return st.one_of(
        plain,
        plain,
        st.builds(lambda of: {"name": "floor", "of": of}, inner),
        st.builds(
            lambda name, of: {"name": name, "of": of}, st.sampled_from(["product", "sum"]), pair
        ),
        st.builds(lambda of: {"name": "warm-start", "of": of[0], "first": of[1]}, pair),
    )


def matchers(depth=2):
    plain = st.sampled_from(MATCHERS)
    if depth == 0:
        return plain
    inner = matchers(depth - 1)
    wrap = st.sampled_from(["protect", "recycle"])
    wrapped = st.builds(lambda name, of: {"name": name, "of": of}, wrap, inner)
    return st.one_of(plain, plain, wrapped)


PARTITIONERS = [
    ("whole", False),
    ({"name": "whole", "scope": "sample"}, False),
    ("windows", True),
    ({"name": "windows", "budget": "view"}, True),
    ("pseudo-square", True),
]


def check_reason(error):
    assert error.field
    assert error.message


def check_all(chain):
    for step in chain.steps:
        check_budget(step)
        check_assignment(step)
        if step.stage.aggregator.convex:
            check_convexity(step, 1e-5)
        check_text(step)
        check_order(step)
        check_layout(step)


@settings(max_examples=80)
@given(data=st.data())
def test_it_obeys_the_laws_or_is_refused_when_built(data):
    partitioner, windowed = data.draw(st.sampled_from(PARTITIONERS))
    case = data.draw(
        cases(windowed=windowed, max_ratio=data.draw(st.sampled_from([0.4, 0.5, 0.9])))
    )
    roles = {
        "partitioner": partitioner,
        "scorer": data.draw(st.one_of(st.none(), scorers(), scorers())),
        "matcher": data.draw(matchers()),
        "aggregator": data.draw(st.sampled_from(AGGREGATORS)),
    }
    schedule = [
        {"after_layer": number + 1, "ratio": case.ratio, "windows": windows}
        for number, windows in enumerate(case.windows)
    ]
    try:
        pipeline = Pipeline.build({**roles, "schedule": schedule}, len(schedule) + 1)
    except ConfigError as error:
        check_reason(error)
        return
    stages = [placed.stage for placed in pipeline.stages]
    chain = Chain.run(stages, case.hidden(), case.layout())
    check_all(chain)
    again = Chain.run(stages, case.hidden(), case.layout()).last
    assert torch.equal(chain.last.hidden_states, again.hidden_states)
    if not any(stage.matcher.dynamic for stage in stages):
        ghost = Chain.run(stages, case.hidden().to("meta"), case.layout()).last
        assert ghost.hidden_states.shape == chain.last.hidden_states.shape


def roles_of(scorer, matcher, aggregator):
    return {
        "partitioner": "whole",
        "scorer": scorer,
        "matcher": matcher,
        "aggregator": aggregator,
        "schedule": [{"after_layer": 1, "ratio": 0.5}],
    }


@pytest.mark.parametrize("matcher", MATCHERS)
@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_every_pair_builds_with_a_scorer(matcher, aggregator):
    """Refusals are for what cannot work: nothing is refused for lack of imagination."""
    for scorer in SCORERS:
        if scorer == "next-last-token" and matcher in ("pivots", "complexity-budget"):
            continue  # one reads the layer after the stage, the other the layer before
        Pipeline.build(roles_of(scorer, matcher, aggregator), 4)


@pytest.mark.parametrize(
    ("scorer", "matcher"),
    [
        ("next-last-token", "pivots"),
        ("next-last-token", "complexity-budget"),
        ({"name": "sum", "of": ["next-last-token", "last-token"]}, "top-k"),
        ("next-last-token", {"name": "bipartite", "metric": "keys"}),
    ],
)
def test_reading_two_layers_in_one_stage_is_refused(scorer, matcher):
    with pytest.raises(ConfigError, match="layer before it or of the layer after"):
        Pipeline.build(roles_of(scorer, matcher, "drop"), 4)


@pytest.mark.parametrize("aggregator", ["weighted-mean"])
def test_weights_by_score_without_a_scorer_are_refused(aggregator):
    with pytest.raises(ConfigError, match="needs importances"):
        Pipeline.build(roles_of(None, "bipartite", aggregator), 4)


@pytest.mark.parametrize("matcher", ["top-k", "ranked-bipartite", "guided", "top-k-clusters"])
def test_selection_by_score_without_a_scorer_is_refused(matcher):
    with pytest.raises(ConfigError, match="needs importances"):
        Pipeline.build(roles_of(None, matcher, "drop"), 4)


def test_matchers_that_ignore_inner_windows_are_refused_with_them():
    roles = {
        **roles_of("size", "pivots", "drop"),
        "partitioner": {"name": "windows", "budget": "view"},
    }
    roles["schedule"] = [{"after_layer": 1, "ratio": 0.5, "windows": 2}]
    with pytest.raises(ConfigError, match="inner windows"):
        Pipeline.build(roles, 4)


class TestMixed(StrategySuite):
    """One composition across methods, with all laws."""

    preset = {
        "partitioner": "windows",
        "scorer": {"name": "product", "of": ["energy", "causal-attention"]},
        "matcher": {"name": "protect", "of": "guided", "share": 0.1},
        "aggregator": "fusion",
        "schedule": [{"after_layer": 1, "ratio": 0.4, "windows": 2}],
    }
