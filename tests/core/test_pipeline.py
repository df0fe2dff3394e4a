"""Pipelines as data: YAML, overrides, and compositions that cannot work."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightkv import Pipeline, PipelineSpec, Recipe, Schedule, StageSpec
from lightkv.core.errors import ConfigError, UnknownNameError
from lightkv.core.plugins import get_preset, registry
from lightkv.strategies.components.top_k import TopK

PRESETS = sorted(registry().presets)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_round_trip_through_yaml(name):
    spec = get_preset(name)
    assert PipelineSpec.from_yaml(spec.to_yaml()) == spec
    for num_layers in (12, 32, 40):
        built = Pipeline.build(name, num_layers)
        again = Pipeline.build(PipelineSpec.from_yaml(built.to_yaml()), num_layers)
        assert again.schedule == built.schedule
        assert again.stages == built.stages
        assert again.to_yaml() == built.to_yaml()
        # A method's own default, or the one of all.
        assert abs(built.retention - spec.schedule.retention) <= 0.005


stage_lists = st.lists(
    st.tuples(st.floats(0, 0.5), st.sampled_from([None, 1, {"space": 2, "time": 1}])), max_size=4
)


@given(entries=stage_lists, scope=st.sampled_from(["view", "image", "sample"]), keep=st.booleans())
def test_any_spec_round_trips(entries, scope, keep):
    schedule = tuple(
        StageSpec(
            after_layer=2 * i,
            ratio=ratio,
            windows=windows,
            overrides={"scorer": "size"} if keep else {},
        )
        for i, (ratio, windows) in enumerate(entries)
    )
    spec = PipelineSpec(
        partitioner={"name": "whole", "scope": scope},
        scorer="uniform",
        matcher={"name": "top-k", "rounding": "floor"},
        schedule=schedule,
    )
    assert PipelineSpec.from_yaml(spec.to_yaml()) == spec
    recipe = spec.model_copy(update={"schedule": Recipe(windows=(4, None), after_layer=3)})
    assert PipelineSpec.from_yaml(recipe.to_yaml()) == recipe


def test_from_file_and_plain_data(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(get_preset("tome").to_yaml())
    assert Pipeline.build(path, 12) == Pipeline.build("tome", 12)
    assert Pipeline.build(str(path), 12, retention=0.7).retention == pytest.approx(0.7, abs=0.005)
    plain = {"matcher": "bipartite", "aggregator": {"name": "weighted-mean", "weights": "uniform"}}
    assert Pipeline.build(plain, 12).spec.name == "custom"
    with pytest.raises(ConfigError, match="no-such-file"):
        Pipeline.build(tmp_path / "no-such-file.yaml", 12)
    path.write_text("matcher: [unclosed")
    with pytest.raises(ConfigError, match="not valid YAML"):
        Pipeline.build(path, 12)
    path.write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(ConfigError, match="not valid YAML"):
        Pipeline.build(path, 12)


def test_changes_replace_parts_and_components_print():
    built = Pipeline.build("random", 12, matcher=TopK(rounding="floor"), positions="renumber")
    assert built.stages[0].stage.matcher == TopK(rounding="floor")
    assert built.positions.name == "renumber"
    assert "rounding: floor" in built.to_yaml()
    schedule = Schedule.single(12, 0.7, 3)
    assert Pipeline.build("fastv", 12, schedule=schedule).schedule == schedule


def test_a_stage_may_override_roles():
    schedule = [
        {"after_layer": 2, "ratio": 0.5},
        {"after_layer": 5, "ratio": 0.5, "overrides": {"matcher": "top-k", "scorer": "size"}},
    ]
    built = Pipeline.build("tome", 12, schedule=schedule)
    assert [placed.stage.matcher.name for placed in built.stages] == ["bipartite", "top-k"]
    again = Pipeline.build(PipelineSpec.from_yaml(built.to_yaml()), 12)
    assert again.stages == built.stages


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"retention": 0.5, "schedule": [{"after_layer": 2, "ratio": 0.5}]}, "explicit stages"),
        ({"scorrer": "uniform"}, "Did you mean 'scorer'"),
        ({"matcher": {"nam": "top-k"}}, "mapping with a name"),
        ({"matcher": {"name": "top-k", "rounding": "up"}}, "rounding"),
        ({"matcher": {"name": "top-k", "k": 3}}, "its parameters are: rounding"),
        ({"scorer": None}, "needs importances"),
        ({"matcher": Pipeline}, "matcher"),
        ({"schedule": [{"after_layer": 0, "ratio": 0.5}], "scorer": "last-token"}, "after_layer"),
        (
            {"schedule": [{"after_layer": 2, "ratio": 0.5, "overrides": {"positions": "keep"}}]},
            "only the roles of a stage",
        ),
    ],
)
def test_what_cannot_work_is_refused_when_built(changes, words):
    with pytest.raises(ConfigError, match=words) as caught:
        Pipeline.build("random", 12, **changes)
    assert caught.value.field


def test_windows_after_a_global_choice_are_refused_with_the_reason():
    """How many survivors of a global top-k fall into a window would depend on values."""
    schedule = [
        {"after_layer": 2, "ratio": 0.5, "overrides": {"partitioner": {"name": "whole"}}},
        {"after_layer": 4, "ratio": 0.5, "windows": 2},
    ]
    roles = {"partitioner": "windows", "scorer": "size", "matcher": "top-k"}
    with pytest.raises(ConfigError, match=r"schedule\[1\].*windows"):
        Pipeline.build({**roles, "schedule": schedule}, 12)
    sample = {"name": "whole", "scope": "sample"}
    schedule[0]["overrides"] = {"partitioner": sample}
    with pytest.raises(ConfigError, match="would depend on values"):
        Pipeline.build({**roles, "schedule": schedule}, 12)


def test_unknown_preset_lists_and_suggests():
    with pytest.raises(UnknownNameError, match="Did you mean 'fastv'") as caught:
        Pipeline.build("fast-v", 12)
    assert all(name in str(caught.value) for name in PRESETS)


def test_sizes_in_the_logits_and_a_look_ahead_are_refused():
    """The look ahead knows no sizes, so it would rank by attention that no layer computes."""
    with pytest.raises(ConfigError, match="proportional"):
        Pipeline.build("pyramiddrop", 32, proportional=True)


def test_a_mapping_as_schedule_changes_the_recipe_as_a_file_with_a_base_does():
    gentle = {"ratio": 0.4}
    recipe = Recipe(windows=(4, 2, 1), ratio=0.4, retention=0.35)
    built = Pipeline.build("lightkv", 12, retention=0.35, schedule=gentle)
    assert built.schedule == Pipeline.build("lightkv", 12, schedule=recipe).schedule
    based = PipelineSpec.parse({"base": "lightkv", "schedule": {**gentle, "retention": 0.35}})
    assert based.schedule == recipe
    # What excludes what is there must be taken away, and a recipe takes its place altogether.
    with pytest.raises(ConfigError, match="null takes away"):
        Pipeline.build("fastv", 12, schedule={"depths": [0.25, 0.5]})
    moved = {"after_layer": None, "depths": [0.25, 0.5]}
    recipe = Recipe(depths=(0.25, 0.5), windows=(None,))
    assert (
        Pipeline.build("fastv", 12, schedule=moved).schedule
        == Pipeline.build("fastv", 12, schedule=recipe).schedule
    )
