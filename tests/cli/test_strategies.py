"""`lightkv strategies`, the bare command, and what errors look like."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest

from lightkv.cli import errors
from lightkv.core import plugins
from lightkv.core.pipeline.pipeline import PipelineSpec, Recipe
from lightkv.core.plugins import Registry, registry


def test_lists_everything(ok, ok_json):
    data = ok_json("strategies", "--json")
    text = ok("strategies")
    for row in data["components"] + data["presets"] + data["adapters"]:
        assert row["name"] in text
        assert row["package"] == "lightkv"
    assert {row["role"] for row in data["components"]} == {
        *("partitioner", "scorer", "matcher", "aggregator", "positions")
    }
    by_name = {row["name"]: row for row in data["components"]}
    assert by_name["prompt-attention"]["requires"] == ["prompt_logits"]
    assert by_name["prompt-attention"]["parameters"] == [
        {
            "name": "normalize",
            "type": "queries | keys",
            "default": "queries",
            "required": False,
        }
    ]
    assert "2605.00789" in {row["name"]: row for row in data["presets"]}["lightkv"]["source"]
    assert data["failed"] == []


def test_yaml_of_presets_gives_them_back(ok, ok_json):
    for row in ok_json("strategies", "--json")["presets"]:
        assert PipelineSpec.from_yaml(row["yaml"]) == plugins.get_preset(row["name"])
    text = ok("strategies", "--verbose")
    assert "scorer prompt-attention: normalize: queries | keys = queries" in text
    assert "matcher: top-k" in text or "name: top-k" in text


def test_failed_plugins_are_listed(ok, ok_json, monkeypatch):
    class Broken:
        @plugins.hookspecs.hookimpl
        def lightkv_presets(self, register):
            raise ValueError("my mistake")

    filled = Registry()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        filled.load_entry_points()
        filled.register(Broken(), name="broken", package="strange-package")
    monkeypatch.setattr(plugins, "registry", lambda: filled)
    assert "strange-package" in ok_json("strategies", "--json")["failed"][0]["error"]
    text = ok("strategies")
    assert "failed: " in text
    assert "lightkv-release" in text
    assert registry() is not filled


def test_a_preset_whose_components_are_missing_says_so_beside_its_name(ok, ok_json, monkeypatch):
    class Mine:
        @plugins.hookspecs.hookimpl
        def lightkv_presets(self, register):
            later = Recipe(depths=(0.2, 0.5), overrides=({}, {"scorer": "last-tokn"}))
            register(PipelineSpec(name="first", matcher="top-kk"))
            register(PipelineSpec(name="second", scorer="size", matcher="top-k", schedule=later))

    filled = Registry()
    filled.load_entry_points()
    filled.register(Mine(), name="mine", package="strange-package")
    monkeypatch.setattr(plugins, "registry", lambda: filled)
    errors = {row["name"]: row["error"] for row in ok_json("strategies", "--json")["presets"]}
    assert "matcher = 'top-kk': there is no matcher of that name" in errors.pop("first")
    assert "Did you mean 'last-token'?" in errors.pop("second")
    assert set(errors.values()) == {None}
    text = ok("strategies")
    assert "cannot run" in text
    assert "top-kk" in text


def test_bare_command_prints_help(ok):
    text = ok()
    for command in ("demo", "run", "strategies", "plan"):
        assert command in text
    assert ok("--version").startswith("lightkv 0.")


@pytest.mark.parametrize("args", [("bogus",), ("--bogus",), ("strategies", "extra")])
def test_usage_errors_are_one_line(fails, args):
    assert args[-1] in fails(*args)


def test_bugs_keep_their_traceback(call, monkeypatch):
    from lightkv.cli import strategies as module

    monkeypatch.setattr(module, "listing", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call("strategies")


def test_warnings_are_one_line(capsys):
    errors._warn("a\n  plugin failed", UserWarning, "file.py", 1)
    errors._warn("old", DeprecationWarning, "file.py", 1)
    assert capsys.readouterr().err == "warning: a plugin failed\n"


def test_entry_point_in_a_process_of_its_own():
    """What a shell sees: exit code, one line on standard error, nothing on standard output."""
    code = "import sys; from lightkv.cli import main; sys.argv[0] = 'lightkv'; main()"
    wrong = ("plan", "demo", "--dtype-bytes", "0")  # seen before torch is imported
    done = subprocess.run(
        [sys.executable, "-c", code, *wrong], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
