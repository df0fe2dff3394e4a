"""Pipelines that say what they change of another: the rules of a grid's cells, in files and mappings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightkv import Pipeline, PipelineSpec
from lightkv.core.errors import ConfigError, UnknownNameError
from lightkv.core.pipeline.pipeline import MOST_BASES, get_preset, resolve_spec
from lightkv.core.plugins import registry
from lightkv.lab.grids.changes import base_data, changed

PRESETS = sorted(registry().presets)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "partitioner": st.sampled_from(["whole", {"name": "whole", "scope": "image"}]),
        "scorer": st.sampled_from([None, "uniform", {"normalize": "keys"}]),
        "matcher": st.sampled_from(["top-k", {"rounding": "floor"}, {"name": "bipartite"}]),
        "aggregator": st.sampled_from(["drop", {"weights": "size"}]),
        "positions": st.sampled_from(["keep", "renumber"]),
        "proportional": st.booleans(),
        "schedule": st.sampled_from(
            [{"retention": 0.4}, {"ratio": 0.3, "depths": None}, [{"after_layer": 2, "ratio": 0.5}]]
        ),
    },
)


@pytest.mark.parametrize("name", PRESETS)
def test_a_base_alone_is_the_preset(name):
    preset = get_preset(name)
    found = PipelineSpec.parse({"base": name})
    assert found == preset.model_copy(update={"name": "custom", "source": ""})
    assert PipelineSpec.from_yaml(found.to_yaml()) == found
    named = PipelineSpec.parse({"base": name, "name": "mine", "source": "me"})
    assert (named.name, named.source) == ("mine", "me")


@given(st.sampled_from(PRESETS), CHANGES)
def test_changes_mean_what_they_mean_in_a_grid(name, change):
    cell = changed(base_data("tome"), {"base": name, **change})
    mine = PipelineSpec.parse({"base": name, **change, "name": "mine"})
    assert mine == PipelineSpec.parse({**cell, "name": "mine", "source": ""})


def test_parameters_without_a_name_are_those_of_the_base():
    found = PipelineSpec.parse(
        {
            "base": "lightkv",
            "scorer": {"normalize": "keys"},
            "matcher": {"metric": "keys"},
            "schedule": {"ratio": 0.4},
        }
    )
    assert found.scorer == {"name": "prompt-attention", "normalize": "keys"}
    assert found.matcher == {"name": "bipartite", "metric": "keys"}
    assert found.schedule.ratio == 0.4
    assert found.schedule.windows == get_preset("lightkv").schedule.windows
    assert found.aggregator == get_preset("lightkv").aggregator
    built = Pipeline.build({"base": "fastv", "schedule": {"retention": 0.6}}, 12)
    assert built.retention == pytest.approx(0.6)
    assert built.spec.matcher == {"name": "top-k", "rounding": "round"}


def test_a_base_may_be_a_file_a_mapping_or_a_spec(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    first, second = tmp_path / "first.yaml", tmp_path / "deep" / "second.yaml"
    second.write_text("base: tome\nname: second\nmatcher: {metric: keys}\n")
    first.write_text("base: deep/second.yaml\nscorer: uniform\n")
    wanted = {"base": "tome", "matcher": {"metric": "keys"}, "scorer": "uniform"}
    assert PipelineSpec.from_file(first) == PipelineSpec.parse(wanted)
    inner = {"base": "tome", "matcher": {"metric": "keys"}}
    for base in (inner, PipelineSpec.parse(inner), second, str(second)):
        assert PipelineSpec.parse({"base": base, "scorer": "uniform"}).matcher["metric"] == "keys"
    assert resolve_spec("first.yaml", tmp_path).scorer == "uniform"
    relative = {"base": {"base": "deep/second.yaml"}}
    assert PipelineSpec.parse(relative, folder=tmp_path).name == "custom"
    monkeypatch.chdir(tmp_path)
    assert PipelineSpec.parse(relative) == PipelineSpec.parse(inner)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"base": "lightkw"}, "no preset of that name. Did you mean 'lightkv'"),
        ({"base": "nope.yaml"}, "No such file"),
        ({"base": None}, "name of a preset, the path of a YAML file, or a pipeline"),
        ({"base": 3}, "name of a preset, the path of a YAML file, or a pipeline"),
        ({"base": ["lightkv"]}, "name of a preset, the path of a YAML file, or a pipeline"),
        ({"bse": "lightkv"}, "Did you mean 'base'"),
        ({"base": "lightkv", "mather": "top-k"}, "Did you mean 'matcher'"),
        ({"base": "lightkv", "schedule": {"ratoi": 0.4}}, "Did you mean 'ratio'"),
        ({"base": "lightkv", "matcher": None}, "matcher"),
        ({"base": {"base": {"base": "lightkw"}}}, "Did you mean 'lightkv'"),
    ],
)
def test_bases_that_cannot_be_meant(data, words):
    with pytest.raises(ConfigError, match=words) as caught:
        PipelineSpec.parse(data, "mine")
    assert str(caught.value).startswith("mine")
    assert caught.value.remedy or isinstance(caught.value, UnknownNameError)


def test_a_spec_itself_has_no_base():
    with pytest.raises(ConfigError, match=r"PipelineSpec\.parse"):
        PipelineSpec(base="lightkv")  # type: ignore[call-arg]


@pytest.mark.parametrize("last", ["0.yaml", "../{folder}/0.yaml", "link.yaml"])
def test_a_file_is_not_its_own_base(tmp_path, last):
    (tmp_path / "link.yaml").symlink_to(tmp_path / "0.yaml")
    (tmp_path / "0.yaml").write_text("base: 1.yaml\n")
    (tmp_path / "1.yaml").write_text(f"base: {last.format(folder=tmp_path.name)}\n")
    with pytest.raises(ConfigError, match="its own base"):
        PipelineSpec.from_file(tmp_path / "0.yaml")


def test_a_chain_of_files_has_an_end(tmp_path):
    for number in range(MOST_BASES + 1):
        (tmp_path / f"{number}.yaml").write_text(f"base: {number + 1}.yaml\n")
    (tmp_path / f"{MOST_BASES + 1}.yaml").write_text("base: lightkv\n")
    assert PipelineSpec.from_file(tmp_path / "2.yaml").scorer == "prompt-attention"
    with pytest.raises(ConfigError, match=f"more than {MOST_BASES} files"):
        PipelineSpec.from_file(tmp_path / "0.yaml")
