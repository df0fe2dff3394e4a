"""`lightkv vllm-args`: what `vllm serve` has to be told, checked without vLLM."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lightkv.cli.options import Json, PipelineChanges, Retention, read_places, refuse, refuse_twice
from lightkv.cli.output import notes, print_json
from lightkv.core.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from lightkv.core.pipeline.pipeline import Pipeline


def vllm_args(
    model: Annotated[
        str, typer.Argument(help="A checkpoint directory, a hub id, or demo for the bundled model.")
    ],
    pipeline: Annotated[
        str,
        typer.Option("--pipeline", "--strategy", help="A preset or a pipeline file."),
    ] = "lightkv",
    retention: Retention = None,
    changes: PipelineChanges = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WIDTHxHEIGHT",
            help="A picture of a request: say on standard error which step it needs; repeatable.",
        ),
    ] = None,
    config: Annotated[
        bool,
        typer.Option("--yaml", help="Print a file for vllm serve --config, the model included."),
    ] = False,
    json: Json = False,
) -> None:
    """Print the flags of `vllm serve` that make a model compress, after checking them."""
    from lightkv.checkpoints.load import quiet_libraries
    from lightkv.core.pipeline.pipeline import resolve_spec
    from lightkv.integrations.vllm.engine_args import engine_args
    from lightkv.integrations.vllm.flags import serve_config

    quiet_libraries()
    places = read_places(changes)
    given: dict[str, Any] = {**resolve_spec(pipeline).parts_with(places, "--set")} if places else {}
    if retention is not None:
        refuse_twice(places, {"--retention": retention})
        given["retention"] = retention
    if pipeline.endswith((".yaml", ".yml")):
        # The engine may be started in another folder.
        pipeline = str(Path(pipeline).expanduser().absolute())
    source = _source(model)
    built = _check(source, pipeline, given)
    told = _step(model, built, image)
    arguments = engine_args(str(source), pipeline, **given)
    if json:
        refuse({"--yaml": config or None}, "it is another form of the same", beside="--json")
        print_json(arguments)
    else:
        typer.echo(serve_config(arguments) if config else _line(arguments), nl=not config)
    notes().print(told, soft_wrap=True)  # on standard error: the line can be substituted


def _source(model: str) -> Path | str:
    """The folder of a checkpoint, or a hub id."""
    from lightkv.checkpoints.bundled import FOLDERS, checkpoint_path

    if model in FOLDERS:
        return checkpoint_path(model)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists() or model.startswith((".", "~", os.sep)) or model.count("/") > 1:
        raise ModelError(
            "vLLM loads a checkpoint directory or a hub id",
            field="MODEL",
            value=model,
            remedy=f"give such a directory, owner/name, or one of {', '.join(FOLDERS)}",
        )
    return model


def _step(source: str, pipeline: Pipeline, image: list[str] | None) -> str:
    """What vLLM has to be told of the length of a step, which nobody can know without the pictures."""
    if not image:
        return (
            "remark: one step has to compute all pictures of a prompt. --image WIDTHxHEIGHT tells which "
            "--max-num-batched-tokens they need."
        )
    from lightkv.checkpoints.describe import describe
    from lightkv.checkpoints.published import TEXT_TOKENS
    from lightkv.cli.plan.blocks import smallest_step
    from lightkv.cli.plan.options import choose_views
    from lightkv.core.cost.counting import prompt_layout

    views = choose_views(describe(source), None, None, image)
    return f"remark: {smallest_step(pipeline, prompt_layout(views, TEXT_TOKENS))[1]}"


def _check(source: Path | str, pipeline: str, changes: dict[str, Any]) -> Pipeline:
    """Build what the engine would run, so that mistakes show here and not in its log.

    Raises:
        ConfigError: options that cannot be read, or cannot work on this decoder or in an engine.
        ModelError: no config, or one of a model that is not mapped.
    """
    from lightkv.checkpoints.describe import read_config
    from lightkv.integrations.vllm.options import KEY, read_options
    from lightkv.integrations.vllm.setup import pipeline_of

    options = read_options({KEY: {"pipeline": pipeline, **changes}})
    assert options is not None
    return pipeline_of(options, read_config(source), field="--pipeline")


def _line(arguments: dict[str, Any]) -> str:
    """The flags in one line.

    Raises:
        ConfigError: one of them needs quotes, which a shell that substitutes the line would take for
            characters of it.
    """
    from lightkv.integrations.vllm.flags import plain_word, serve_flags

    flags = serve_flags(arguments)
    for flag in flags:
        if not plain_word(flag):
            raise ConfigError(
                "it needs quotes, and what a shell substitutes can have none",
                field="flag",
                value=flag,
                remedy="add --yaml, and give the output to vllm serve --config, in a file x.yaml",
            )
    return " ".join(flags)
