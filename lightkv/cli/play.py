"""`lightkv play`: two strategies side by side on a picture, in a browser."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from lightkv.cli.options import Device, Dtype, Json
from lightkv.cli.output import console, notes, print_json


def play(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A checkpoint directory, a hub id, or a bundled model [all bundled]; repeatable."
        ),
    ] = None,
    pipeline: Annotated[
        list[Path] | None,
        typer.Option(help="A YAML file that is offered beside the presets; repeatable."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Where to listen; by default for this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes one that is free.")] = 7860,
    dtype: Dtype = "auto",
    device: Device = None,
    json: Json = False,
) -> None:
    """Serve a page that asks a model about a picture under two strategies, side by side."""
    from lightkv.play.server import is_loopback, serve

    def ready(where: str, models: list[str]) -> None:
        if not is_loopback(host):
            notes().print(
                "warning: whoever can reach this machine can use the model; there is no password",
                soft_wrap=True,
            )
        if json:
            print_json({"address": where, "models": models})
            return
        console().print(f"{', '.join(models)}: open {where}", soft_wrap=True)
        console().print("Ctrl-C ends it", style="dim")

    with suppress(KeyboardInterrupt):  # how a server ends
        serve(
            model or (),
            pipeline or (),
            host=host,
            port=port,
            dtype=dtype,
            device=device,
            ready=ready,
        )
