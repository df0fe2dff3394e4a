"""`lightkv run`: one prompt about pictures on any supported checkpoint, compressed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lightkv.cli.output import console, print_json

if TYPE_CHECKING:
    from lightkv.checkpoints.answers import Answer


def run(
    model: Annotated[
        str, typer.Option(help="A checkpoint directory, a hub id, or demo for the bundled model.")
    ],
    prompt: Annotated[str, typer.Option(help="The question.")],
    image: Annotated[list[Path] | None, typer.Option(help="A picture; repeatable.")] = None,
    strategy: Annotated[str | None, typer.Option(help="A preset [lightkv].")] = None,
    retention: Annotated[
        float | None, typer.Option(help="Mean share of vision KV over all layers [0.55].")
    ] = None,
    pipeline: Annotated[Path | None, typer.Option(help="A YAML file instead of a preset.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="At most so many tokens.")] = 100,
    compare: Annotated[
        bool, typer.Option("--compare", help="Run the uncompressed model too.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:0.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Answer a prompt about pictures with compressed vision tokens; print what that saved."""
    from lightkv.checkpoints.answers import generate
    from lightkv.checkpoints.load import load_model
    from lightkv.checkpoints.pictures import open_image
    from lightkv.checkpoints.prompts import build_inputs
    from lightkv.core.pipeline.pipeline import resolve_spec
    from lightkv.core.run.session import prepare

    _check(strategy, pipeline, max_new_tokens)
    spec = resolve_spec(pipeline if pipeline is not None else strategy or "lightkv")
    pictures = [open_image(path) for path in image or []]
    loaded, processor = load_model(model, dtype, device)
    session = prepare(loaded, spec, retention=retention, profile=True)
    inputs = build_inputs(processor, prompt, pictures, loaded)
    vanilla = None
    if compare:
        empty = spec.model_copy(update={"name": "vanilla", "schedule": ()})
        plain = prepare(loaded, empty, profile=True)
        generate(plain, processor, inputs, 1)  # the first pass of all is slow; it counts for none
        vanilla = generate(plain, processor, inputs, max_new_tokens)
    answer = generate(session, processor, inputs, max_new_tokens)
    if json:
        print_json(_data(model, answer, vanilla))
    else:
        _show(answer, vanilla)


def _check(strategy: str | None, pipeline: Path | None, max_new_tokens: int) -> None:
    from lightkv.core.errors import ConfigError

    if strategy is not None and pipeline is not None:
        raise ConfigError(
            "a pipeline file is a strategy already",
            field="--pipeline",
            value=str(pipeline),
            remedy="leave one of --strategy and --pipeline out",
        )
    if max_new_tokens < 1:
        raise ConfigError("must be at least 1", field="--max-new-tokens", value=max_new_tokens)


# -- printing -------------------------------------------------------------------------------------


def _data(model: str, answer: Answer, vanilla: Answer | None) -> dict[str, Any]:
    data = {"model": model, **answer.to_dict()}
    if vanilla is not None:
        data["vanilla"] = vanilla.to_dict()
        data["same_answer"] = vanilla.text == answer.text
    return data


def _show(answer: Answer, vanilla: Answer | None) -> None:
    out = console()
    out.print(answer.text)
    if vanilla is not None:
        same = "the same answer" if vanilla.text == answer.text else vanilla.text
        out.print(f"vanilla: {same}")
    out.print(answer.report.table())
    if vanilla is not None:
        out.print(_times(vanilla, answer))


def _times(vanilla: Answer, answer: Answer) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("milliseconds")
    for column in ("vanilla", "compressed", "ratio"):
        table.add_column(column, justify="right")
    for label, old, new in (
        (
            "first token",
            vanilla.report.time_to_first_token,
            answer.report.time_to_first_token,
        ),
        ("each further token", vanilla.report.time_per_token, answer.report.time_per_token),
        ("whole answer", vanilla.seconds, answer.seconds),
    ):
        if old and new:
            table.add_row(label, f"{1e3 * old:.1f}", f"{1e3 * new:.1f}", f"{new / old:.2f}")
    return table
