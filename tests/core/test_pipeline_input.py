"""Pipelines from strangers: whatever a file or a mapping says, it works or is a typed error."""

import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lightkv import LightKVError, Pipeline, PipelineSpec, Recipe, Schedule, Stage, StageSpec
from lightkv.core import yamls
from lightkv.core.errors import ConfigError, short
from lightkv.core.plugins import get_preset, registry
from lightkv.core.strict import check_plain

LAYERS = 12
PRESETS = sorted(registry().presets)
START = "matcher: {name: top-k}\nscorer: last-token\n"

# -- YAML -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (START + "matcher: {name: bipartite}\n", "'matcher' is there twice.*line 3"),
        ("matcher: {name: top-k, name: bipartite}\n", "'name' is there twice"),
        ("matcher: " + "[" * 3000 + "]" * 3000, "nested more than 50 deep"),
        ("matcher: " + "{a: " * 3000 + "}" * 3000, "nested more than 50 deep"),
        ("- " * 3000, "nested more than 50 deep"),
        ("matcher: &a [*a]", "inside what it stands for"),
        ("matcher: &a {name: *a}", "inside what it stands for"),
        ("name: " + "x" * 2_000_000, "1,000,000 characters"),
        ("source: 2024-02-31", "none of its kind.*day"),
        ("source: !!bool perhaps", "none of its kind"),
        ("source: !!timestamp now", "none of its kind"),
        ("source: " + "1" * 5000, "none of its kind"),
        ("source: !!python/name:os.system", "could not determine a constructor"),
        ("? [a, b]\n: 1", "unhashable key"),
        ("1: top-k", "a key is a text"),
        ("yes: top-k", "a key is a text"),
        ("matcher: top-k\n---\nmatcher: top-k", "another document"),
        ("matcher: \x07", "special characters"),
        ("", "a mapping of roles"),
        ("- matcher", "a mapping of roles"),
    ],
)
def test_yaml_that_is_no_pipeline(text, words, tmp_path):
    path = tmp_path / "pipeline.yaml"
    path.write_text(text)
    for read in (lambda: PipelineSpec.from_yaml(text), lambda: PipelineSpec.from_file(path)):
        with pytest.raises(ConfigError, match=f"(?s){words}") as caught:
            read()
        assert len(str(caught.value)) < 1500
        assert caught.value.remedy


def test_texts_are_bounded_in_keys_and_values(monkeypatch):
    """With a lower bound: to read 100,000 of them takes seconds. The next test meets the real one."""
    monkeypatch.setattr(yamls, "MOST_NODES", 1000)
    with pytest.raises(ConfigError, match="1,000 keys and values"):
        PipelineSpec.from_yaml("matcher: [" + "1," * 1200 + "]")


def test_aliases_are_bounded_by_what_they_stand_for():
    """A thousand laughs are 30 lines of text and more nodes than any memory holds."""
    lines = ["a0: &a0 [1, 2]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))]
    started = time.perf_counter()
    with pytest.raises(ConfigError, match="100,000 keys and values"):
        PipelineSpec.from_yaml("\n".join(lines))
    chain = ["a0: &a0 [1]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 60))]
    with pytest.raises(ConfigError, match="nested more than 50 deep"):
        PipelineSpec.from_yaml("\n".join(chain))
    assert time.perf_counter() - started < 5.0


def test_aliases_and_merges_that_mean_something_work():
    text = """
matcher: &m {name: top-k, rounding: floor}
scorer: uniform
schedule:
  - &first {after_layer: 2, ratio: 5e-1}
  - {<<: *first, after_layer: 4, overrides: {matcher: *m}}
"""
    spec = PipelineSpec.from_yaml(text)
    assert [stage.ratio for stage in spec.schedule] == [0.5, 0.5]
    assert [stage.after_layer for stage in spec.schedule] == [2, 4]


def test_numbers_are_those_of_json():
    for text in ("5e-1", "5E-1", "5.e-1", "0.5", "+5e-1"):
        assert yamls.load(text) == 0.5
    assert yamls.load("-1.5e3") == -1500.0
    for text in ("e3", "12e", "7e2f9a1", "3e-2 is too small", "1e4-checkpoint", "1e5.2", "1e5_0"):
        assert yamls.load(text) == text
        assert PipelineSpec.from_yaml(f"{START}name: {text}").name == text


@given(
    st.text(alphabet="0123456789+-.eE_:xo", min_size=1, max_size=8)
    | st.integers().map(str)
    | st.floats().map(repr)
    | st.from_regex(r"[-+]?[0-9]{1,3}(\.[0-9]{0,2})?[eE][-+]?[0-9]{1,2}( kg)?", fullmatch=True)
    | st.text(max_size=8)
)
def test_texts_come_back_from_the_yaml_of_a_pipeline(name):
    spec = PipelineSpec(name=name, matcher={"name": "top-k", "label": name, name: [1.5, name]})
    assert PipelineSpec.from_yaml(spec.to_yaml()) == spec


# -- what only looks like a value ---------------------------------------------------------------


@pytest.mark.parametrize("bad", [True, "2", [2], float("nan"), float("inf"), 10**30, 2.5])
def test_no_layer(bad):
    plain = {"matcher": "top-k", "scorer": "size", "schedule": [{"after_layer": bad, "ratio": 0.5}]}
    for source in (
        lambda: Pipeline.build("fastv", LAYERS, schedule=plain["schedule"]),
        lambda: Pipeline.build("fastv", LAYERS, schedule={"after_layer": bad}),
        lambda: PipelineSpec.from_yaml(yaml.safe_dump(plain)),
        lambda: Pipeline.build(plain, LAYERS),
        lambda: Schedule.single(LAYERS, 0.5, bad),
    ):
        with pytest.raises(ConfigError, match="after_layer"):
            source()


@pytest.mark.parametrize("bad", [True, False, "0.5", None, [0.5], float("nan"), -1, 10**400])
def test_no_share(bad):
    for source in (
        lambda: Pipeline.build("fastv", LAYERS, schedule=[{"after_layer": 2, "ratio": bad}]),
        lambda: Pipeline.build("tome", LAYERS, schedule={"retention": bad}),
        lambda: Pipeline.build("pyramiddrop", LAYERS, schedule={"depths": [0.1, bad]}),
        lambda: Recipe(retention=bad),
        lambda: StageSpec(after_layer=2, ratio=bad),
        lambda: Schedule.for_retention(LAYERS, bad),
        lambda: Schedule.for_retention(LAYERS, 0.5, ratio=bad),
        lambda: Schedule.at_depths(LAYERS, 0.5, [0.25, bad], [0.5, 0.5]),
        lambda: Schedule.at_depths(LAYERS, 0.5, [0.25], [bad]),
        lambda: Stage.preset("random", ratio=bad),
    ):
        with pytest.raises(ConfigError):
            source()
    if bad is not None:
        with pytest.raises(ConfigError, match="retention"):
            Pipeline.build("tome", LAYERS, retention=bad)
        with pytest.raises(ConfigError, match="ratio"):
            Pipeline.build("tome", LAYERS, schedule={"ratio": bad})


@pytest.mark.parametrize(
    "bad", [True, "4", 0, -1, 10**9, 10**30, 2.5, {"space": True}, {"space": 10**9}, [4]]
)
def test_no_windows(bad):
    stage = {"after_layer": 2, "ratio": 0.5, "windows": bad}
    with pytest.raises(ConfigError, match="windows"):
        Pipeline.build("lightkv", LAYERS, schedule=[stage])
    with pytest.raises(ConfigError, match="windows"):
        Pipeline.build("lightkv", LAYERS, schedule={"windows": [bad]})
    with pytest.raises(ConfigError, match="windows"):
        Stage.preset("lightkv", windows=bad)


def test_as_many_windows_as_are_allowed_are_built_at_once():
    """The composition is tried on a small grid, whatever the number of windows."""
    most = {"space": 65_536, "time": 65_536}
    stages = [{"after_layer": i, "ratio": 0.5, "windows": most} for i in (2, 3)]
    started = time.perf_counter()
    Pipeline.build("lightkv", LAYERS, schedule=stages)
    Pipeline.build(
        "tome-cache", LAYERS, partitioner="windows", schedule={"windows": [most], "site": "cache"}
    )
    assert time.perf_counter() - started < 5.0


@pytest.mark.parametrize(
    ("role", "spec"),
    [
        ("partitioner", {"name": "windows", "population": True}),
        ("partitioner", {"name": "windows", "population": "16"}),
        ("partitioner", {"name": "windows", "clamp": 1}),
        ("partitioner", {"name": "windows", "clamp": "yes"}),
        ("matcher", {"name": "random-bipartite", "seed": True}),
        ("matcher", {"name": "random-bipartite", "seed": 2**64}),
        ("matcher", {"name": "random-bipartite", "seed": -(2**63) - 1}),
        ("matcher", {"name": "anchors", "first": 2**63}),
        ("matcher", {"name": "adaptive-bipartite", "divergence": True}),
        ("matcher", {"name": "adaptive-bipartite", "divergence": float("nan")}),
        ("scorer", {"name": "energy", "alpha": float("inf")}),
        ("scorer", {"name": "sum", "of": ["size", "uniform"], "weights": [1, True]}),
    ],
)
def test_no_parameter(role, spec):
    with pytest.raises(ConfigError, match=f"{role} '{spec['name']}', "):
        Pipeline.build("lightkv", LAYERS, **{role: spec})


def test_a_direct_call_has_typed_errors_too():
    with pytest.raises(ConfigError, match="retention = True"):
        Recipe(retention=True)
    with pytest.raises(ConfigError, match=r"after_layer = 'two'.*number"):
        StageSpec(after_layer="two", ratio=0.5)
    with pytest.raises(ConfigError, match="Did you mean 'matcher'"):
        PipelineSpec(matchr="top-k")
    for stages in (5, "ab", {"after_layer": 2, "ratio": 0.5}, [5], [{1: 2}], None):
        with pytest.raises(ConfigError, match="schedule"):
            Schedule(stages)


# -- deep and wide data of Python -----------------------------------------------------------------


def test_deep_and_endless_data_of_python():
    deep, wide, loop = [], [], {}
    for _ in range(5000):
        deep = [deep]
    for _ in range(60):
        wide = [wide, wide]
    loop["name"] = loop
    huge = [[0] * 90_000] * 90_000
    for bad in (deep, wide, loop, huge):
        for data in (
            {"matcher": bad},
            {"matcher": {"name": "protect", "of": bad}},
            {
                "matcher": "top-k",
                "schedule": [{"after_layer": 2, "ratio": 0.5, "overrides": {"scorer": bad}}],
            },
        ):
            with pytest.raises(ConfigError, match="nested more than 50 deep") as caught:
                PipelineSpec.parse(data)
            assert len(str(caught.value)) < 500
        with pytest.raises(ConfigError, match="nested more than 50 deep"):
            Pipeline.build("tome", LAYERS, matcher=bad)
    check_plain({"a": [{"b": (1, 2)}]}, "data")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.floats(),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4)
        ),
        max_leaves=10,
    )
)
def test_errors_print_values_of_a_user_as_python_does(value):
    text = repr(value)
    assert short(value) == text or len(text) > 60
    assert len(short([value] * 1000)) < 8000


# -- anything at all --------------------------------------------------------------------------

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-2, 14),
    st.sampled_from([10**9, 2**63, 10**30, 10**400]),
    st.floats(),
    st.floats(-0.5, 1.5),
    st.text(max_size=8),
    st.sampled_from(["[red]", "[/]", "top-k", "windows", "whole", "size", "cache", "all", "keep"]),
    st.dates(),
)
keys = st.one_of(
    st.text(max_size=4),
    st.sampled_from(
        [*PipelineSpec.model_fields, *Recipe.model_fields, *StageSpec.model_fields, "space", "time"]
    ),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


def paths(data, before=()):
    """The way to each part of plain data."""
    yield before
    for key, part in data.items() if isinstance(data, dict) else enumerate(data):
        if isinstance(part, dict | list):
            yield from paths(part, (*before, key))
        else:
            yield (*before, key)


@st.composite
def pipelines(draw):
    """A preset, recipe or built, in which one or two parts are something else."""
    name = draw(st.sampled_from(PRESETS))
    text = (
        Pipeline.build(name, LAYERS).to_yaml()
        if draw(st.booleans())
        else get_preset(name).to_yaml()
    )
    data = yaml.safe_load(text)
    for _ in range(draw(st.integers(1, 2))):
        way = draw(st.sampled_from([each for each in paths(data) if each]))
        inner = data
        for key in way[:-1]:
            inner = inner[key]
        if draw(st.booleans()) and isinstance(inner, dict):
            inner[draw(keys)] = draw(values)
        else:
            inner[way[-1]] = draw(values)
    return data


def outcome(make):
    """What is made, or the error, if it is the user's."""
    try:
        return make()
    except LightKVError as error:
        return error


def build(read, layers=LAYERS, **changes):
    """A pipeline that its own YAML gives back, or None after an error of a length to print."""
    built = outcome(lambda: Pipeline.build(read(), layers, **changes))
    if isinstance(built, LightKVError):
        assert 0 < len(str(built)) < 20_000
        return None
    assert PipelineSpec.from_yaml(built.to_yaml()).schedule == built.spec.schedule
    return built


@settings(max_examples=150)
@given(data=pipelines())
def test_a_preset_with_anything_in_it(data):
    def text():
        return PipelineSpec.from_yaml(yaml.safe_dump(data, allow_unicode=True))

    assert (build(text) is None) <= (build(lambda: data) is None)


@given(data=values, layers=st.integers(1, 3))
def test_anything_as_a_pipeline(data, layers):
    build(lambda: PipelineSpec.from_yaml(yaml.safe_dump(data, allow_unicode=True)), layers)
    build(lambda: PipelineSpec.parse(data), layers)
    for role in ("retention", "matcher", "partitioner", "schedule", "positions", "proportional"):
        build(lambda: "tome", layers, **{role: data})


@pytest.mark.parametrize("value", [None, 5, b"matcher: top-k", {"matcher": "top-k"}])
def test_what_is_no_text(value):
    with pytest.raises(ConfigError, match="YAML is a text"):
        PipelineSpec.from_yaml(value)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("name: é".encode("latin-1"))
    for path in (tmp_path, tmp_path / "latin.yaml", tmp_path / "none.yaml", "a\0b.yaml"):
        with pytest.raises(ConfigError, match="pipeline file"):
            PipelineSpec.from_file(path)


@given(st.text(alphabet=" \n:-[]{}&*!|>'\"#%@?,abc01.~<=\t\\", max_size=60))
def test_any_text_as_yaml(text):
    build(lambda: PipelineSpec.from_yaml(text))


def test_components_of_a_direct_call_are_checked_as_those_of_a_file():
    deep = {"name": "top-k"}
    for _ in range(2000):
        deep = {"name": "protect", "of": deep}
    for matcher in (deep, {1: 2, "name": "top-k"}, {"name": "protect", "of": {"name": True}}):
        with pytest.raises(ConfigError, match="matcher"):
            Stage.preset("random", matcher=matcher)
