"""Options that several commands have, with the same meaning and help."""

from __future__ import annotations

from collections.abc import Mapping
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


def refuse(
    options: Mapping[str, object], message: str, *, beside: str = "", remedy: str = ""
) -> None:
    """Refuse options that are given where they do not belong.

    Args:
        options: option → value, None where it is not given.
        message: what is wrong with them.
        beside: the option that they contradict; one of the two has to go.
        remedy: what would work instead.

    Raises:
        ConfigError: one of them is given.
    """
    for option, value in options.items():
        if value is not None:
            remedy = remedy or f"leave one of {beside} and {option} out"
            raise ConfigError(message, field=option, value=value, remedy=remedy)
