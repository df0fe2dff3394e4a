"""What commands import: heavy libraries come when they are needed, and help comes without them."""

from __future__ import annotations

import gc
import importlib
import json
import subprocess
import sys

import pytest

import lightkv
from lightkv.cli import lazy
from lightkv.cli.collector import ALLOCATIONS, rare_collections
from lightkv.cli.lazy import COMMANDS

WATCH = """
import contextlib, io, json, sys
import lightkv
from lightkv.cli import app

heavy = ("torch", "transformers", "numpy", "scipy", "sklearn", "plotly", "jinja2", "matplotlib",
         "optuna", "PIL", "ray", "vllm")

def loaded(*args):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        if args:
            assert app(args, standalone_mode=False) == 0
    return [name for name in heavy if name in sys.modules], out.getvalue()

seen = {"lightkv": loaded(), "-h": loaded("-h"), "--version": loaded("--version")}
for name in json.loads(sys.argv[1]):
    seen[name] = loaded(name, "-h")
seen["LightKVError"] = (lightkv.LightKVError, loaded())[1]
seen["counted"] = loaded("plan", "llava-v1.5-13b", "--json")
seen["all families"] = ["lightkv.adapters" in sys.modules, ""]
json.dump(seen, sys.__stdout__)
"""


@pytest.fixture(scope="module")
def seen():
    """Command → the heavy modules that are there after it, and what it printed; in one process."""
    run = [sys.executable, "-c", WATCH, json.dumps(list(COMMANDS))]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_help_and_version_need_nothing_heavy(seen):
    counted = seen.pop("counted")
    families = seen.pop("all families")
    assert {name: modules for name, (modules, _) in seen.items() if modules} == {}
    assert seen["--version"][1] == f"lightkv {lightkv.__version__}\n"
    for name in COMMANDS:
        assert name in seen["-h"][1]
        assert "Usage: " in seen[name][1]
        assert "-h" in seen[name][1]
        assert name == "convert" or "--json" in seen[name][1]
    # What is counted needs torch's shapes, and neither transformers nor what draws and tests.
    assert set(counted[0]) == {"torch", "numpy"}
    assert json.loads(counted[1])["vision_tokens"] == 576
    assert families[0] is False


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_what_the_command_says(name):
    """Lines of the list are written down, so that it needs no command; they are the commands' own."""
    assert lazy.load(name).help.partition("\n")[0] == COMMANDS[name].help


def test_a_command_that_mostly_imports_looks_for_garbage_rarely(monkeypatch, ok):
    before, inside = gc.get_threshold(), []
    describe = importlib.import_module("lightkv.checkpoints.describe")
    known = describe.describe
    monkeypatch.setattr(
        describe, "describe", lambda *given: inside.append(gc.get_threshold()) or known(*given)
    )
    ok("plan", "llava-v1.5-7b", "--json")
    assert inside == [(ALLOCATIONS, *before[1:])]
    assert gc.get_threshold() == before
    gc.set_threshold(0, *before[1:])
    try:
        with rare_collections():
            assert gc.get_threshold()[0] == 0  # who switched it off keeps it off
    finally:
        gc.set_threshold(*before)


def test_a_command_that_mostly_imports_ends_without_a_last_look():
    """Python looks for garbage when a process ends, of which a thousand modules have hardly any."""
    watch = """
import atexit, gc, sys
from lightkv.cli import main
atexit.register(lambda: print(gc.get_freeze_count() > 0, file=sys.stderr))  # runs after later ones
main()
"""
    for name, frozen in (("plan", "True"), ("strategies", "False")):
        arguments = [name, "llava-v1.5-7b", "--json"] if name == "plan" else [name, "--json"]
        run = [sys.executable, "-c", watch, *arguments]
        done = subprocess.run(run, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)
        assert done.stderr.splitlines()[-1] == frozen


def test_short_help_everywhere(ok):
    assert ok("-h") == ok("--help")
    assert ok("convert", "-h") == ok("convert", "--help")
    assert ok("convert", "internvl2", "-h") == ok("convert", "internvl2", "--help")
    assert ok("plan", "-h") == ok("plan", "--help")


def test_a_misspelt_command_is_one_line(fails):
    assert "Did you mean 'demo'?" in fails("demoo")


def test_names_of_the_package_come_when_asked_for():
    assert set(lightkv.__all__) <= set(dir(lightkv))
    for name in lightkv.__all__:
        assert getattr(lightkv, name).__module__.startswith(("lightkv.core", "pluggy"))
    namespace: dict[str, object] = {}
    exec("from lightkv import *", namespace)
    assert namespace["compress"] is lightkv.compress
    assert set(lightkv._HOME_OF) == set(lightkv.__all__)
    with pytest.raises(AttributeError, match="no attribute 'compres'"):
        _ = lightkv.compres
    with pytest.raises(ImportError):
        exec("from lightkv import compres", {})
