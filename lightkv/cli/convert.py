"""`lightkv convert`: checkpoints in the form of their own code, made native to transformers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lightkv.cli.options import Json
from lightkv.cli.output import console, notes, print_json
from lightkv.core.errors import ConfigError, file_errors

app = typer.Typer(help="Convert a checkpoint for transformers' own classes.", no_args_is_help=True)


@app.callback()
def root() -> None:
    """Convert a checkpoint for transformers' own classes."""


@app.command()
def internvl2(
    checkpoint: Annotated[Path, typer.Argument(help="A folder with InternVL2 or InternVL2.5.")],
    out: Annotated[Path, typer.Argument(help="A new folder, or that of an interrupted run.")],
    chat_template: Annotated[
        Path | None, typer.Option(help="A Jinja file instead of the checkpoint's conversation.")
    ] = None,
    ignore_field: Annotated[
        list[str] | None,
        typer.Option(help="A field of its config that changes nothing; repeatable."),
    ] = None,
    json: Json = False,
) -> None:
    """InternVL2 and InternVL2.5 as InternVLForConditionalGeneration, with processor and template."""
    from lightkv.checkpoints.convert import convert_internvl2

    template = None
    if chat_template is not None:
        with file_errors(
            ConfigError,
            "read the chat template",
            "--chat-template",
            chat_template,
            errors=(OSError, UnicodeDecodeError),
        ):
            template = chat_template.read_text(encoding="utf-8")
    told = notes()
    done = convert_internvl2(
        checkpoint, out, template=template, ignore=ignore_field or (), progress=told.print
    )
    if json:
        print_json({**asdict(done), "folder": str(done.folder)})
        return
    kept = f", {done.kept} of them from an earlier run" if done.kept else ""
    console().print(
        f"wrote {done.folder}: {done.bytes / 1e9:,.2f} GB in {done.shards} files{kept}. Each of the "
        f"{done.read} tensors was used once ({done.written} in the native form, decoder "
        f"{done.decoder}), read back and compared with the source."
    )
