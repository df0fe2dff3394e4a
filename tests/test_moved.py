"""Imports of modules of lightkv 0.1: an error that names the new place, and nothing else changed."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys

import pytest

from lightkv import _moved

PACKAGES = sorted(_moved.NAMES)
"""Old modules that are packages now: importing them works, only what they held is elsewhere."""
GONE = sorted(set(_moved.MOVED) - set(PACKAGES))


@pytest.mark.parametrize("old", GONE)
def test_an_old_module_names_its_new_place(old):
    # Of an old package it is the package that is looked for first.
    new = _moved.MOVED["lightkv.lab.lmms" if old.startswith("lightkv.lab.lmms") else old]
    room, module = old.rsplit(".", 1)
    codes = [f"import {old}", f"from {old} import anything"]
    if room not in _moved.MOVED and not hasattr(importlib.import_module(room), module):
        codes.append(f"from {room} import {module}")  # some rooms import their families by name
    for code in codes:
        with pytest.raises(ImportError) as found:
            exec(code)
        assert new in str(found.value), code
        assert "write `from " in str(found.value)
    assert old not in sys.modules


@pytest.mark.parametrize("new", sorted(set(_moved.MOVED.values())))
def test_the_new_place_exists(new):
    assert importlib.util.find_spec(new) is not None


@pytest.mark.parametrize(
    ("package", "name"), [(package, name) for package in PACKAGES for name in _moved.NAMES[package]]
)
def test_a_package_tells_where_names_of_the_old_module_are(package, name):
    with pytest.raises(ImportError, match=re.escape(_moved.MOVED[package])) as found:
        exec(f"from {package} import {name}")
    assert name in str(found.value)
    assert hasattr(importlib.import_module(_moved.MOVED[package]), name)


def test_public_names_are_imported_from_lightkv():
    with pytest.raises(ImportError, match=r"from lightkv import PipelineSpec"):
        importlib.import_module("lightkv.core.pipeline").PipelineSpec  # noqa: B018


@pytest.mark.parametrize("module", ["lightkv.core.roles", "lightkv.adapters.hf"])
def test_authors_are_sent_to_the_module_for_plugins(module):
    assert "from lightkv.plugin import" in _moved.message(module)


def test_other_names_fail_as_ever():
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'lightkv.core.nonsense'"):
        importlib.import_module("lightkv.core.nonsense")
    with pytest.raises(ImportError, match="cannot import name 'nonsense'"):
        exec("from lightkv.core.stage import nonsense")
    assert not hasattr(importlib.import_module("lightkv.core.stage"), "nonsense")


def test_the_finder_is_the_last_and_the_only_one():
    code = (
        "import sys, lightkv, importlib; importlib.reload(lightkv); "
        "print([type(f).__name__ for f in sys.meta_path].count('Finder'), "
        "type(sys.meta_path[-1]).__name__)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["1", "Finder"]


def test_an_old_command_line_is_told():
    run = [sys.executable, "-m", "lightkv.demo.train"]
    out = subprocess.run(run, capture_output=True, text=True)
    assert out.returncode == 1
    assert "training.train" in out.stderr
