"""`lightkv vllm-args`: flags that a shell leaves alone, and mistakes that show before a start."""

from __future__ import annotations

import itertools
import json
import subprocess

import pytest
import yaml

from lightkv.core.pipeline.pipeline import get_preset
from lightkv.integrations.vllm.engine_args import engine_args
from lightkv.integrations.vllm.flags import serve_flags


def test_the_line_names_the_options(ok, bundled):
    words = ok("vllm-args", "demo", "--retention", 0.4).split()
    pairs = dict(itertools.pairwise(words))
    assert pairs["--additional-config.lightkv.pipeline"] == "lightkv"
    assert pairs["--additional-config.lightkv.retention"] == "0.4"
    assert words == serve_flags(engine_args(str(bundled), "lightkv", retention=0.4))
    assert str(bundled) not in words, "the model is named behind `vllm serve`"


@pytest.mark.parametrize("how", ["substituted", "pasted"])
def test_a_shell_gives_the_words_of_the_line(ok, bundled, tmp_path, how):
    line = ok("vllm-args", "demo", "--retention", 0.4, "--set", "positions=keep").strip()
    (tmp_path / "line").write_text(line)
    typed = "$(cat line)" if how == "substituted" else line
    got = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {typed}"], cwd=tmp_path, capture_output=True, check=True
    )
    assert got.stdout.decode().splitlines() == line.split()


def test_the_file_holds_what_llm_is_given(ok, bundled):
    changes = {"schedule": [{"after_layer": 2, "ratio": 0.3}], "name": "two words"}
    options = [f"--set={key}={json.dumps(value)}" for key, value in changes.items()]
    text = ok("vllm-args", "demo", "--pipeline", "tome", *options, "--yaml")
    expected = {
        k.replace("_", "-"): v for k, v in engine_args(str(bundled), "tome", **changes).items()
    }
    # vLLM's reader forgets `name: false` of a subcommand.
    for name in [name for name, value in expected.items() if value is False]:
        expected[f"no-{name}"] = not expected.pop(name)
    assert yaml.safe_load(text) == expected


def test_single_values_are_those_of_the_pipeline(ok_json, bundled):
    places = ("--set", "positions.name=keep", "--set", "schedule.ratio=0.4")
    found = ok_json("vllm-args", "demo", "--pipeline", "tome", *places, "--json")
    found = found["additional_config"]["lightkv"]
    assert found["positions"] == {"name": "keep"}
    assert found["schedule"]["ratio"] == 0.4
    assert set(found) == {"pipeline", "positions", "schedule"}


def test_json_is_what_llm_is_given(ok_json, fails, bundled):
    assert ok_json("vllm-args", "demo", "--json") == engine_args(str(bundled), "lightkv")
    assert "--yaml" in fails("vllm-args", "demo", "--json", "--yaml")


@pytest.mark.parametrize(("strategy", "step"), [("lightkv", 144 + 75), ("tome", 144 + 1)])
def test_the_step_that_a_picture_needs(call, ok_json, bundled, strategy, step):
    """Standard error has it, the line stays what it is, and `plan` counts the same."""
    args = ("vllm-args", "demo", "--strategy", strategy)
    told = call(*args, "--image", "96x96")
    assert told.exit_code == 0
    assert f"--max-num-batched-tokens {step} or more" in told.stderr
    plain = call(*args)
    assert plain.stdout == told.stdout
    assert "--image WIDTHxHEIGHT" in plain.stderr
    plan = ok_json("plan", "demo", "--strategy", strategy, "--engine", "vllm", "--json")
    assert plan["engine"]["max_num_batched_tokens"] == step


def test_a_pipeline_file_is_found_from_any_folder(ok, bundled, tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text(get_preset("tome").to_yaml())
    monkeypatch.chdir(tmp_path)
    found = yaml.safe_load(ok("vllm-args", "demo", "--strategy", "mine.yaml", "--yaml"))
    assert found["additional-config"]["lightkv"]["pipeline"] == str(tmp_path / "mine.yaml")


def test_flags_of_any_plain_data():
    arguments = {
        "model": "x",
        "names": ["a.b:C", "d"],
        "count": 3,
        "on": True,
        "off": False,
        "text": "two words",
        "deep": {"a": {"b": 1, "c": "word", "d": "1k", "e": "null", "f": "two words"}},
        "list": {"plain": ["a", "b"], "none": [], "mixed": ["a,b", 1], "empty": {}, "no": None},
        "dots": {"a.b": 1},
    }
    assert serve_flags(arguments) == [
        *("--names", "a.b:C", "d"),
        *("--count", "3"),
        "--on",
        "--no-off",
        *("--text", "two words"),
        *("--deep.a.b", "1"),
        *("--deep.a.c", "word"),
        *("--deep.a.d", '"1k"'),
        *("--deep.a.e", '"null"'),
        *("--deep.a.f", '"two words"'),
        *("--list.plain+", "a,b"),
        *("--list.none", "[]"),
        *("--list.mixed", '["a,b", 1]'),
        *("--list.empty", "{}"),
        *("--list.no", "null"),
        *("--dots", '{"a.b": 1}'),
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--pipeline", "hired"), "--pipeline = 'hired': a stage reads the vision encoder"),
        (("--pipeline", "pyramiddrop"), '"positions": "keep"'),
        (("--pipeline", "rand"), "between layers"),
        (("--pipeline", "nope"), "there is no preset of that name"),
        (("--pipeline", "nope.yaml"), "nope.yaml"),
        (("--retention", 0.05), "reach retentions from"),
        (("--retention", "nan"), "retention is a share"),
        (("--retention", 0.4, "--set", "retention=0.5"), "one of --set retention and --retention"),
        (("--retention", 0.4, "--set", "schedule.retention=0.5"), "--set says it already"),
        (("--set", "matcher.metrc=keys"), "metric"),
        (("--set", "positions"), "KEY=VALUE"),
        (("--set", "positions=keep", "--set", "positions=keep"), "twice"),
        (("--set", "positions={"), "no YAML"),
        (("--set", "position=keep"), "Did you mean 'positions'?"),
        (("--set", "name=two words"), "add --yaml"),
    ],
)
def test_mistakes_are_named(fails, bundled, options, words):
    assert words in fails("vllm-args", "demo", *options)


def test_models_that_are_not_served(fails, tmp_path):
    assert "checkpoint directory" in fails("vllm-args", "/nowhere")
    assert "config.json" in fails("vllm-args", tmp_path)
    config = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    words = fails("vllm-args", tmp_path)
    assert "GPT2LMHeadModel is no vision-language model" in words
    assert "LlavaForConditionalGeneration" in words
    assert "checkpoint directory" in fails("vllm-args", tmp_path / "config.json")
