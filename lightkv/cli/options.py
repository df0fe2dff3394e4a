"""Options that several commands have, with the same meaning and help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lightkv.core.errors import ConfigError

if TYPE_CHECKING:
    from lightkv.core.pipeline.pipeline import PipelineSpec

Model = Annotated[
    str, typer.Option(help="A checkpoint directory, a hub id, or demo for the bundled model.")
]
Images = Annotated[list[Path] | None, typer.Option(help="A picture; repeatable.")]


def read_retention(text: str) -> float | dict[str, float]:
    """A number, percent, or such of each modality: `0.55`, `55%`, `image=0.5,audio=0.7`.

    Raises:
        typer.BadParameter: neither.
    """
    from lightkv.core.strict import read_number

    try:
        if "=" not in text:
            return read_number(text)
        pairs = (part.split("=") for part in text.split(","))
        return {name.strip(): read_number(share) for name, share in pairs}
    except ValueError:
        message = (
            f"{text!r} is neither a number such as 0.55 or 55% nor such as image=0.5,audio=0.7"
        )
        raise typer.BadParameter(message) from None


def read_share(text: str | float) -> float:
    """A number or percent: `0.55`, `55%`; defaults come as they are.

    Raises:
        typer.BadParameter: neither.
    """
    from lightkv.core.strict import read_number

    try:
        return read_number(str(text))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no number such as 0.55 or 55%") from None


Retention = Annotated[
    Any,
    typer.Option(
        parser=read_retention,
        metavar="SHARE",
        help="Mean share of vision KV over all layers [the strategy's own, 0.55 of lightkv; "
        "`lightkv strategies` lists them], as 0.55 or 55%, or image=0.5,audio=0.7.",
    ),
]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda:0.")]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A value of the file to run with instead, in YAML, as task.scenes=20; repeatable.",
    ),
]
PipelineChanges = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A value of the pipeline to run with instead, in YAML, as matcher.metric=keys; "
        "repeatable.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def read_changes(texts: Sequence[str], example: str) -> dict[str, Any]:
    """`KEY=VALUE`, the value in YAML, as a mapping.

    Raises:
        ConfigError: no such text, no YAML, or a key twice.
    """
    import yaml

    from lightkv.core import yamls

    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key or key in found:
            what = "it is there twice" if key in found else "a change is KEY=VALUE"
            remedy = f"such as --set {example}"
            raise ConfigError(what, field="--set", value=text, remedy=remedy)
        try:
            found[key] = yamls.load(value)
        except yaml.YAMLError as error:
            what = f"the value is no YAML ({error})"
            raise ConfigError(what, field=f"--set {key}", value=value) from error
    return found


def chosen(
    strategy: str | Path,
    texts: Sequence[str] | None,
    retention: Mapping[str, object] | None = None,
    stages: Mapping[str, object] | None = None,
) -> PipelineSpec:
    """The strategy that is named, with the values of `--set`; each of its components can be built.

    Args:
        strategy: a preset's name, or the path of a pipeline file.
        texts: of `--set`, `KEY=VALUE`.
        retention: other options that say the retention → their values, None where not given.
        stages: those that say the whole schedule.

    Raises:
        ConfigError: no such strategy, place or component; a value that another option says too.
    """
    from lightkv.core.pipeline.pipeline import resolve_spec

    spec, given = resolve_spec(strategy), read_places(texts)
    refuse_twice(given, retention, stages)
    if given:
        spec = spec.updated(**spec.parts_with(given, "--set"))
    spec.check_components()
    return spec


def read_places(texts: Sequence[str] | None) -> dict[str, Any]:
    """Place of a pipeline → value, of `--set`."""
    return read_changes(texts or (), "matcher.metric=keys")


def refuse_twice(
    places: Mapping[str, Any],
    retention: Mapping[str, object] | None = None,
    stages: Mapping[str, object] | None = None,
) -> None:
    """Refuse options that say what `--set` says, as `chosen` takes them.

    Raises:
        ConfigError: one of them is given.
    """
    for place, value in places.items():
        part, key = (*place.split("."), "")[:2]
        whole = part == "schedule" and isinstance(value, Mapping) and "retention" in value
        if part == "retention" or key == "retention" or whole:
            refuse(retention or {}, "--set says it already", beside=f"--set {place}")
        if part in ("retention", "schedule"):
            refuse(stages or {}, "--set says it already", beside=f"--set {place}")


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
