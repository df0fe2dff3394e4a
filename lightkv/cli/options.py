"""Options that several commands have, with the same meaning and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lightkv.core.errors import ConfigError

Model = Annotated[
    str, typer.Option(help="A checkpoint directory, a hub id, or demo for the bundled model.")
]
Images = Annotated[list[Path] | None, typer.Option(help="A picture; repeatable.")]
Retention = Annotated[
    float | None, typer.Option(help="Mean share of vision KV over all layers [0.55].")
]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda:0.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def check_least(option: str, value: int, least: int = 1) -> None:
    """Refuse a number that is too small.

    Raises:
        ConfigError: it is below `least`.
    """
    if value < least:
        raise ConfigError(f"must be at least {least}", field=option, value=value)
