"""What components declare that they need: members of `Need`, and hooks under today's names."""

import pytest
import torch

from lightkv import Stage, VisionLayout
from lightkv.core.contracts import Aggregator, AttentionScorer, Matcher, Scorer
from lightkv.core.errors import ConfigError, PluginError
from lightkv.core.needs import (
    LayerNeed,
    Need,
    Source,
    check_needs,
    encoder_layers,
    needs_class_token,
    needs_from,
)
from lightkv.core.plugins import Registry
from lightkv.functional import compress_stage


class Ones(Scorer):
    def score(self, inputs):
        return torch.ones_like(inputs.size)


class First(Matcher):
    def match(self, inputs):
        return torch.zeros_like(inputs.size, dtype=torch.long)


class Nothing(Aggregator):
    def merge(self, inputs):
        raise NotImplementedError


def test_every_need_has_a_source_and_is_read_as_text():
    assert {need.source for need in Need} == set(Source)
    assert str(Need.LAST_ROW) == "last_row"
    assert repr(Need.VISION_CLS.at(-2)) == "Need.VISION_CLS.at(-2)"
    assert str(Need.VISION_CLS.at(-2)) == "vision_cls:-2"
    assert Need.VISION_KEYS.at(-1) == LayerNeed(Need.VISION_KEYS, -1)


def test_needs_are_asked_for_by_source():
    needs = frozenset({Need.LAST_ROW, Need.VISION_CLS.at(-2), Need.VISION_FEATURES})
    assert needs_from(needs, Source.ATTENTION) == {Need.LAST_ROW}
    assert needs_from(needs, Source.ENCODER) == needs - {Need.LAST_ROW}
    assert needs_from(needs, Source.NEXT_LAYER, Source.EMBEDDINGS) == set()
    assert encoder_layers(needs) == {-2}
    assert needs_class_token(needs)
    assert not needs_class_token(frozenset({Need.VISION_KEYS.at(-2)}))


def test_what_is_needed_before_the_projector_belongs_to_the_stage():
    stage = Stage.preset("visionzip")
    assert Need.VISION_FEATURES in stage.needs
    assert Need.VISION_KEYS.at(-2) in stage.needs


def test_only_needs_of_the_encoder_have_a_layer():
    with pytest.raises(ConfigError, match=r"Need\.LAST_ROW alone"):
        Need.LAST_ROW.at(3)
    with pytest.raises(ConfigError, match=r"such as Need\.VISION_CLS\.at\(-2\)"):
        check_needs(frozenset({Need.VISION_CLS}), "scorer 'mine'")


NO_NEEDS = [
    (frozenset({"last_row"}), r"requires = 'last_row'.*Write Need\.LAST_ROW"),
    (frozenset({"vision_cls:-2"}), r"Write Need\.VISION_CLS"),
    (frozenset({"last_rows"}), "Did you mean 'LAST_ROW'"),
    (frozenset({7}), "nothing that a component may need"),
    ("last_row", "a set of members of `Need`"),
]


@pytest.mark.parametrize(("declared", "message"), NO_NEEDS)
def test_what_is_no_need_is_refused_when_the_class_is_used(declared, message):
    class Mine(Ones):
        name = "mine"
        requires = declared

    with pytest.raises(ConfigError, match=message):
        Mine()
    with pytest.warns(UserWarning, match="scorer 'mine', requires of 'other' is left out"):
        registry = registered(Mine)
    assert registry.components == {}


def test_a_need_that_depends_on_a_parameter_is_checked_when_the_stage_is_built():
    class Mine(Ones):
        name = "mine"

        def needs(self):
            return frozenset({"keys"})

    roles = {"partitioner": "whole", "matcher": "top-k", "aggregator": "drop"}
    with pytest.raises(ConfigError, match=r"scorer 'mine', needs = 'keys'.*Write Need\.KEYS"):
        Stage.from_roles({**roles, "scorer": Mine()}, ratio=0.5, windows=None)


def registered(component):
    registry = Registry()
    registry._add_component(component, "other")
    return registry


OLD_HOOKS = [
    (Ones, "start", "read_embeddings"),
    (Ones, "look", "read_encoder"),
    (Ones, "observe", "read_attention"),
    (First, "look", "read_encoder"),
    (First, "observe", "read_attention"),
    (Nothing, "look", "read_encoder"),
]


@pytest.mark.parametrize(("base", "old", "new"), OLD_HOOKS)
def test_a_hook_under_its_old_name_is_refused_with_the_new_one(base, old, new):
    mine = type("Mine", (base,), {"name": "mine", old: lambda self, given: None})
    with pytest.raises(
        ConfigError, match=rf"'{old}' of lightkv 0\.1 .*rename the method to '{new}'"
    ):
        mine()
    with pytest.warns(UserWarning, match=f"rename the method to '{new}'"):
        registry = registered(mine)
    assert registry.components == {}
    assert [type(error) for error in registry.failures] == [PluginError]


def test_a_parameter_may_be_called_as_an_old_hook():
    class Mine(Ones):
        name = "mine"
        start: int = 3

    assert Mine().start == 3


def test_each_hook_is_given_what_it_reads():
    class Mine(AttentionScorer):
        name = "mine"
        requires = frozenset({Need.EMBEDDINGS, Need.LAST_ROW})

        def read_embeddings(self, inputs):
            return inputs.last_vision.float()

        def read_attention(self, attention):
            return attention.last_row().sum(dim=1) + attention.from_embeddings[:, None]

    roles = {"partitioner": "whole", "matcher": "top-k", "aggregator": "drop", "scorer": Mine()}
    stage = Stage.from_roles(roles, ratio=0.5, windows=None)
    layout = VisionLayout.from_spans([[(1, (1, 2, 2))]])
    hidden, row = torch.randn(1, 6, 4), torch.rand(1, 2, 6)
    result = compress_stage(hidden, layout, stage, last_row=row)
    torch.testing.assert_close(result.score, row.sum(dim=1)[0, 1:5] + 4.0)
