"""What `lightkv vllm-args` prints, read by vLLM's own parser, against what `engine_args` gives `LLM`."""

import json
import shlex

import pytest
import yaml
from typer.testing import CliRunner
from vllm.engine.arg_utils import EngineArgs
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.utils.argparse_utils import FlexibleArgumentParser

from lightkv.checkpoints.bundled import checkpoint_path
from lightkv.cli import app
from lightkv.core.pipeline.pipeline import get_preset
from lightkv.integrations.vllm import engine_args
from lightkv.integrations.vllm.flags import serve_config, serve_flags

STAGES = [{"after_layer": 2, "ratio": 0.3}, {"after_layer": 6, "ratio": 0.25}]
CASES = {
    "preset": ("lightkv", {"retention": 0.55}),
    "changes": ("pyramiddrop", {"positions": "keep", "proportional": False}),
    "stages": ("tome", {"schedule": STAGES, "name": "two 'words'"}),
    "data": (yaml.safe_load(get_preset("lightkv-plus").to_yaml()), {}),
}


def parsed(args):
    """The arguments of the engine that `vllm serve` makes of these words."""
    parser, command = FlexibleArgumentParser(), ServeSubcommand()
    command.subparser_init(parser.add_subparsers(dest="subparser"))
    namespace = parser.parse_args(["serve", *map(str, args)])
    command.validate(namespace)
    if namespace.model_tag is not None:
        namespace.model = namespace.model_tag
    return EngineArgs.from_cli_args(namespace)


def check(got, arguments):
    for name, value in arguments.items():
        assert getattr(got, name) == value, name


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("written", ["flags", "file"])
def test_flags_and_file_say_what_llm_is_given(case, written, tmp_path):
    pipeline, changes = CASES[case]
    model = str(checkpoint_path())
    arguments = engine_args(model, pipeline, **changes)
    if written == "flags":
        got = parsed([model, *serve_flags(arguments), "--max-num-seqs", "4"])
    else:
        path = tmp_path / "lightkv.yaml"
        path.write_text(serve_config(arguments))
        got = parsed(["--config", path, "--max-num-seqs", "4"])
    check(got, arguments)
    assert got.max_num_seqs == 4


def printed(*args):
    result = CliRunner().invoke(app, ["vllm-args", "demo", *args], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_what_the_command_prints_is_read(tmp_path):
    model = str(checkpoint_path())
    arguments = engine_args(model, "fastv", retention=0.4, positions="keep")
    options = ("--pipeline", "fastv", "--retention", "0.4", "--set", "positions=keep")
    line = printed(*options)
    assert shlex.split(line) == line.split()
    check(parsed([model, *line.split()]), arguments)
    path = tmp_path / "lightkv.yaml"
    path.write_text(printed(*options, "--yaml"))
    check(parsed(["--config", path]), arguments)


def test_a_user_adds_to_the_mappings_with_dots(tmp_path):
    model = str(checkpoint_path())
    got = parsed([model, *printed().split(), "--additional-config.other", "1"])
    assert got.additional_config == {**engine_args(model)["additional_config"], "other": 1}
    # The same mapping as JSON is replaced by what is written with dots, so ours is never lost.
    added = json.dumps({"other": 1})
    got = parsed([model, *printed().split(), "--additional-config", added])
    assert got.additional_config == engine_args(model)["additional_config"]
