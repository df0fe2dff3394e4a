"""Loading plugins: what works, what fails alone, and how it is named."""

import importlib.metadata
import types
from dataclasses import dataclass

import pytest
import torch

from lightkv import LightKVError, PipelineSpec, hookimpl
from lightkv.core import plugins
from lightkv.core.contracts import Scorer
from lightkv.core.errors import ModelError, PluginError, UnknownNameError
from lightkv.core.pipeline.pipeline import resolve_spec
from lightkv.core.plugins import Registry, build_component
from lightkv.core.run.adapter import find_adapter
from lightkv.strategies.components.plain_scorers import Uniform


class Mine(Scorer):
    name = "mine"

    def score(self, inputs):
        return inputs.size


def plugin(components=(), presets=()):
    """A module-like plugin with the given offers."""
    module = types.ModuleType("a_plugin")

    @hookimpl
    def lightkv_components(register):
        for component in components:
            register(component)

    @hookimpl
    def lightkv_presets(register):
        for preset in presets:
            register(preset)

    module.lightkv_components, module.lightkv_presets = lightkv_components, lightkv_presets
    return module


@dataclass
class FakeEntryPoint:
    """An entry point of some distribution."""

    name: str
    plugin: object
    package: str

    @property
    def value(self):
        return f"{self.package}.{self.name}"

    @property
    def dist(self):
        return types.SimpleNamespace(name=self.package)

    def load(self):
        if isinstance(self.plugin, Exception):
            raise self.plugin
        return self.plugin


def loaded(monkeypatch, *entries):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: list(entries))
    registry = Registry()
    registry.load_entry_points()
    return registry


def test_a_stranger_registers_like_a_built_in(monkeypatch):
    entry = FakeEntryPoint("extra", plugin([Mine], [PipelineSpec(name="p", matcher="m")]), "other")
    registry = loaded(monkeypatch, entry)
    assert registry.component("scorer", "mine") is Mine
    assert registry.components["scorer", "mine"].package == "other"
    assert registry.preset("p").matcher == "m"
    assert registry.failures == []


class Named:
    """What has a name, and is neither a preset nor an adapter."""

    name = "named"


class Lookalike(Named):
    """What answers like both and derives from neither class."""

    source = models = ""

    def roles(self):
        return {}

    def to_yaml(self):
        return ""

    def matches(self, model):
        return True


def test_what_is_no_preset_is_left_out(monkeypatch):
    with pytest.warns(UserWarning, match="no preset"):
        registry = loaded(
            monkeypatch, FakeEntryPoint("extra", plugin([Mine], [Named(), "text"]), "other")
        )
    assert "no preset. register a lightkv.PipelineSpec" in str(registry.failures[0])
    assert len(registry.failures) == 2
    assert registry.presets == {}
    assert registry.component("scorer", "mine") is Mine


def test_who_knows_the_classes_refuses_lookalikes(monkeypatch):
    registry = Registry()
    for table in (registry.presets, registry.adapters):
        table["named"] = plugins.Entry(Lookalike(), "other")
    monkeypatch.setattr(plugins, "registry", lambda: registry)
    monkeypatch.setattr("lightkv.core.pipeline.pipeline.registry", lambda: registry)
    monkeypatch.setattr("lightkv.core.run.adapter.registry", lambda: registry)
    with pytest.warns(UserWarning, match="no preset"), pytest.raises(PluginError, match="'other'"):
        resolve_spec("named")
    with pytest.warns(UserWarning, match="no adapter"), pytest.raises(ModelError, match="serves"):
        find_adapter(torch.nn.Linear(2, 2))
    assert registry.presets == registry.adapters == {}
    assert len(registry.failures) == 2
    with pytest.raises(UnknownNameError, match="failed plugins"):
        resolve_spec("named")


def test_a_failing_import_is_named_and_the_others_load(monkeypatch):
    bad = FakeEntryPoint("broken", ImportError("no module named x"), "bad-package")
    good = FakeEntryPoint("extra", plugin([Mine]), "other")
    with pytest.warns(UserWarning, match="bad-package"):
        registry = loaded(monkeypatch, bad, good)
    (failure,) = registry.failures
    assert isinstance(failure, PluginError)
    assert isinstance(failure, LightKVError)
    for part in ("broken", "bad-package", "no module named x", "the other plugins are loaded"):
        assert part in str(failure)
    assert registry.component("scorer", "mine") is Mine
    # Whoever asks for a name that the broken plugin may have brought is told about it.
    with pytest.raises(UnknownNameError, match=r"failed plugins: .*bad-package"):
        registry.component("scorer", "theirs")


def test_a_hook_that_raises_is_named(monkeypatch):
    class Bad:
        @hookimpl
        def lightkv_components(self, register):
            register(Mine)
            raise RuntimeError("half way")

    with pytest.warns(UserWarning, match="half way"):
        registry = loaded(monkeypatch, FakeEntryPoint("half", Bad(), "bad-package"))
    assert registry.component("scorer", "mine") is Mine
    assert "lightkv_components" in str(registry.failures[0])


def test_a_clash_keeps_the_first_and_built_ins_win(monkeypatch):
    class Usurper(Mine):
        name = "uniform"

    stranger = FakeEntryPoint("aaa", plugin([Usurper, Mine]), "other")
    own = FakeEntryPoint("zzz", plugin([Uniform]), "lightkv")
    with pytest.warns(UserWarning, match="clashes"):
        registry = loaded(monkeypatch, stranger, own)
    assert registry.component("scorer", "uniform") is Uniform
    assert registry.component("scorer", "mine") is Mine
    assert "other" in str(registry.failures[0])
    assert registry.failures[0].field == "uniform"
    assert registry.failures[0].remedy


def test_two_plugins_of_one_name(monkeypatch):
    entries = [
        FakeEntryPoint("same", plugin([Mine]), "one"),
        FakeEntryPoint("same", plugin(), "two"),
    ]
    with pytest.warns(UserWarning, match="two plugins are called 'same'"):
        registry = loaded(monkeypatch, *entries)
    assert registry.components["scorer", "mine"].package == "one"


@pytest.mark.parametrize("nothing", [{}, [1], types.SimpleNamespace()])
def test_an_entry_point_that_is_no_plugin(monkeypatch, nothing):
    good = FakeEntryPoint("extra", plugin([Mine]), "other")
    with pytest.warns(UserWarning, match="not usable"):
        registry = loaded(monkeypatch, FakeEntryPoint("odd", nothing, "bad-package"), good)
    assert "bad-package" in str(registry.failures[0])
    assert registry.component("scorer", "mine") is Mine


def test_two_names_for_one_plugin(monkeypatch):
    shared = plugin([Mine])
    entries = [FakeEntryPoint("one", shared, "other"), FakeEntryPoint("two", shared, "other")]
    with pytest.warns(UserWarning, match="'two'"):
        registry = loaded(monkeypatch, *entries)
    assert registry.component("scorer", "mine") is Mine


def test_something_that_is_no_component(monkeypatch):
    with pytest.warns(UserWarning, match="not a component"):
        registry = loaded(monkeypatch, FakeEntryPoint("odd", plugin([int]), "other"))
    assert registry.components == {}


def test_unknown_names_list_and_suggest():
    with pytest.raises(UnknownNameError) as caught:
        build_component("matcher", "bipartit")
    message = str(caught.value)
    assert "matcher = 'bipartit'" in message
    assert "Did you mean 'bipartite'?" in message
    assert "top-k" in message


def test_a_component_in_the_wrong_role():
    with pytest.raises(LightKVError, match="a scorer stands where a matcher is needed"):
        build_component("matcher", Uniform())


def test_the_process_wide_registry_has_no_failures_of_its_own():
    own = [f for f in plugins.registry().failures if "'lightkv'" in str(f)]
    assert own == []
    roles = {role for role, _ in plugins.registry().components}
    assert roles == set(plugins.ROLES)
    sources = [
        e.value.source for e in plugins.registry().presets.values() if e.package == "lightkv"
    ]
    assert all(sources)
