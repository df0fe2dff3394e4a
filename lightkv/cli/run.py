"""`lightkv run`: one prompt about pictures on any supported checkpoint, compressed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from lightkv.checkpoints.remarks import remarks
from lightkv.cli.options import (
    Device,
    Dtype,
    Images,
    Json,
    Model,
    PipelineChanges,
    Retention,
    chosen,
    refuse,
)
from lightkv.cli.output import console, print_json, table
from lightkv.core.errors import check_least

if TYPE_CHECKING:
    from lightkv.checkpoints.answers import Answer, Compared, Spread
    from lightkv.core.pipeline.pipeline import PipelineSpec


def run(
    model: Model,
    prompt: Annotated[str, typer.Option(help="The question.")],
    image: Images = None,
    strategy: Annotated[str | None, typer.Option(help="A preset [lightkv].")] = None,
    retention: Retention = None,
    pipeline: Annotated[Path | None, typer.Option(help="A YAML file instead of a preset.")] = None,
    changes: PipelineChanges = None,
    max_new_tokens: Annotated[int, typer.Option(help="At most so many tokens.")] = 100,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Run the uncompressed model too: each 3 times, in turns."),
    ] = False,
    dtype: Dtype = "auto",
    device: Device = None,
    json: Json = False,
) -> None:
    """Answer a prompt about pictures with compressed vision tokens; print what that saved."""
    from lightkv.checkpoints.answers import generate, in_turns, typical
    from lightkv.checkpoints.bundled import FOLDERS
    from lightkv.checkpoints.load import load_model
    from lightkv.checkpoints.pictures import open_image
    from lightkv.checkpoints.prompts import build_inputs
    from lightkv.core.run.session import prepare

    if strategy is not None and pipeline is not None:
        what = "a pipeline file is a strategy already"
        refuse({"--pipeline": str(pipeline)}, what, beside="--strategy")
    check_least("--max-new-tokens", max_new_tokens)
    source = pipeline if pipeline is not None else strategy or "lightkv"
    spec = chosen(source, changes, {"--retention": retention})
    pictures = [open_image(path) for path in image or []]
    loaded, processor = load_model(model, dtype, device)
    session = prepare(loaded, spec, retention=retention, profile=True)
    inputs = build_inputs(processor, prompt, pictures, loaded)
    compared = None
    if compare:
        empty = spec.model_copy(update={"name": "vanilla", "schedule": ()})
        plain = prepare(loaded, empty, profile=True)
        compared = in_turns(plain, session, processor, inputs, max_new_tokens)
        answer = typical(compared.compressed)
    else:
        answer = generate(session, processor, inputs, max_new_tokens)
    default = "" if retention is not None else _owner_of_the_schedule(spec, source)
    told = remarks(answer, compared, default, bundled=bool(pictures) and model in FOLDERS)
    if json:
        print_json({**_data(model, answer, compared), "remarks": told})
    else:
        _show(answer, compared, told)


def _owner_of_the_schedule(spec: PipelineSpec, source: str | Path) -> str:
    """What the retention was taken from, "" where `--set` says how the stages stand."""
    from lightkv.core.pipeline.pipeline import resolve_spec

    named = resolve_spec(source)
    if spec.schedule != named.schedule:
        return ""
    return "the pipeline file" if isinstance(source, Path) else f"the preset {named.name!r}"


# -- printing -------------------------------------------------------------------------------------


def _data(model: str, answer: Answer, compared: Compared | None) -> dict[str, Any]:
    data = {"model": model, **answer.to_dict()}
    if compared is not None:
        vanilla = _vanilla(compared)
        data["vanilla"] = vanilla.to_dict()
        data["same_answer"] = vanilla.text == answer.text
        data["times"] = {
            label: {"vanilla": asdict(old), "compressed": asdict(new), "overlap": old.overlaps(new)}
            for label, (old, new) in compared.times.items()
        }
        data["runs"] = len(compared.vanilla)
    return data


def _vanilla(compared: Compared) -> Answer:
    from lightkv.checkpoints.answers import typical

    return typical(compared.vanilla)


def _show(answer: Answer, compared: Compared | None, told: list[str]) -> None:
    out = console()
    out.print(answer.text)
    if compared is not None:
        vanilla = _vanilla(compared)
        same = "the same answer" if vanilla.text == answer.text else vanilla.text
        out.print(f"vanilla: {same}")
    out.print(answer.report.table())
    if compared is not None:
        out.print(_times(compared))
    for remark in told:
        out.print(remark, style="dim")


def _times(compared: Compared) -> Table:
    head = f"milliseconds, median of {len(compared.vanilla)} runs in turns (range)"
    found = table(head, "vanilla", "compressed", "ratio")
    for label, (old, new) in compared.times.items():
        found.add_row(label, _range(old), _range(new), f"{new.median / old.median:.2f}")
    return found


def _range(spread: Spread) -> str:
    return f"{1e3 * spread.median:.1f} ({1e3 * spread.low:.1f}–{1e3 * spread.high:.1f})"
