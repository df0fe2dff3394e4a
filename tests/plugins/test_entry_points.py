"""Broken and clashing plugins, found through real entry points: named, and nobody else is hurt."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

from lightkv.core.errors import PluginError, UnknownNameError
from lightkv.core.plugins import Registry

GOOD = """
import lightkv
from lightkv.core.contracts import Scorer

class Ones(Scorer):
    name = "ones"

    def score(self, inputs):
        return inputs.size * 0 + 1

@lightkv.hookimpl
def lightkv_components(register):
    register(Ones)
"""
CLASHING = GOOD.replace('"ones"', '"uniform"')
RAISING = """
import lightkv

@lightkv.hookimpl
def lightkv_presets(register):
    raise RuntimeError("no presets today")
"""
NO_ROLE = """
import lightkv

@lightkv.hookimpl
def lightkv_components(register):
    register(dict)
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a one-module package with an entry point on the path, as pip would."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(package: str, code: str, *, entry: str | None = None) -> None:
        module = package.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(code)
        metadata = tmp_path / f"{module}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
        )
        (metadata / "entry_points.txt").write_text(f"[lightkv]\n{entry or package} = {module}\n")
        importlib.invalidate_caches()

    return write


def load() -> Registry:
    registry = Registry()
    registry.load_entry_points()
    return registry


def assert_builtins(registry: Registry) -> None:
    assert {"lightkv", "lightkv-release", "fastv", "tome", "random"} <= set(registry.presets)
    assert {"llava", "generic"} <= set(registry.adapters)


def failure(registry: Registry) -> PluginError:
    assert len(registry.failures) == 1
    return registry.failures[0]


def test_good_plugin_is_listed_with_its_package(install: Install) -> None:
    install("good-plugin-a", GOOD)
    registry = load()
    assert registry.failures == []
    assert registry.components["scorer", "ones"].package == "good-plugin-a"
    assert_builtins(registry)


def test_plugin_that_cannot_be_imported(install: Install) -> None:
    install("broken-plugin", "import a_module_that_is_not_there")
    install("good-plugin-b", GOOD)
    with pytest.warns(UserWarning, match="broken-plugin"):
        registry = load()
    message = str(failure(registry))
    assert "broken-plugin" in message
    assert "a_module_that_is_not_there" in message
    assert "uninstall" in message
    assert ("scorer", "ones") in registry.components
    assert_builtins(registry)


def test_plugin_of_an_earlier_version_is_told_where_its_imports_are(install: Install) -> None:
    install("old-plugin", "from lightkv.core.roles import Scorer")
    with pytest.warns(UserWarning, match="old-plugin"):
        registry = load()
    assert "write `from lightkv.plugin import" in str(failure(registry))
    assert_builtins(registry)


def test_unknown_name_mentions_the_failed_plugin(install: Install) -> None:
    install("broken-plugin-too", "raise OSError('disk')")
    with pytest.warns(UserWarning, match="broken-plugin-too"):
        registry = load()
    with pytest.raises(UnknownNameError, match="broken-plugin-too"):
        registry.component("scorer", "of-the-broken-one")


def test_component_clash_keeps_the_builtin(install: Install) -> None:
    install("clashing-plugin", CLASHING)
    with pytest.warns(UserWarning, match="clashing-plugin"):
        registry = load()
    message = str(failure(registry))
    assert "uniform" in message
    assert "clashing-plugin" in message
    assert "'lightkv'" in message
    assert registry.components["scorer", "uniform"].package == "lightkv"
    assert_builtins(registry)


def test_entry_point_clash_names_the_package(install: Install) -> None:
    install("first-plugin", GOOD, entry="same")
    install("second-plugin", GOOD.replace('"ones"', '"twos"'), entry="same")
    with pytest.warns(UserWarning, match="same"):
        registry = load()
    left_out = str(failure(registry))
    names = {name for role, name in registry.components if role == "scorer"}
    assert len(names & {"ones", "twos"}) == 1
    assert "first-plugin" in left_out or "second-plugin" in left_out
    assert_builtins(registry)


def test_hook_that_raises(install: Install) -> None:
    install("raising-plugin", RAISING)
    with pytest.warns(UserWarning, match="raising-plugin"):
        registry = load()
    assert "no presets today" in str(failure(registry))
    assert_builtins(registry)


def test_class_without_a_role(install: Install) -> None:
    install("roleless-plugin", NO_ROLE)
    with pytest.warns(UserWarning, match="roleless-plugin"):
        registry = load()
    assert "subclass one of the roles" in str(failure(registry))
    assert_builtins(registry)


def test_hook_with_a_wrong_signature(install: Install) -> None:
    install("wrong-plugin", NO_ROLE.replace("(register)", "(add)", 1))
    install("good-plugin-c", GOOD)
    with pytest.warns(UserWarning, match="wrong-plugin"):
        registry = load()
    assert "wrong-plugin" in str(failure(registry))
    assert ("scorer", "ones") in registry.components
    assert_builtins(registry)
