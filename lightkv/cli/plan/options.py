"""What the options of `lightkv plan` mean: views, schedules and ranges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lightkv.checkpoints.bundled import FOLDERS, checkpoint_path
from lightkv.checkpoints.picture_sizes import image_views
from lightkv.checkpoints.published import DESCRIPTIONS, Description
from lightkv.cli.options import refuse
from lightkv.cli.plan.trace import config_of
from lightkv.core.cost.counting import ViewSize
from lightkv.core.errors import ConfigError, check_least
from lightkv.core.pipeline.pipeline import Pipeline, PipelineSource, PipelineSpec, resolve_spec
from lightkv.core.pipeline.places import Places
from lightkv.integrations.vllm.schedules import serving_pipeline

N = TypeVar("N", int, float)


def choose_views(
    described: Description,
    vision_tokens: int | None,
    grids: Sequence[str] | None,
    pixels: Sequence[str] | None = None,
) -> tuple[ViewSize, ...]:
    """The views to plan for: as given, or those of the model's usual input.

    Args:
        described: the model.
        vision_tokens: laid out as a square.
        grids: of the views, in tokens.
        pixels: sizes of pictures, `WIDTHxHEIGHT`.

    Raises:
        ConfigError: contradicting options, or none where the model does not decide.
        ModelError: sizes in pixels for a model of whose processor nothing is known.
    """
    if pixels:
        what = "the size of a picture fixes its views already"
        refuse({"--grid": grids or None, "--vision-tokens": vision_tokens}, what, beside="--image")
        return tuple(view for text in pixels for view in _views_of(described, text))
    if grids:
        what = "a grid fixes the number of vision tokens already"
        refuse({"--vision-tokens": vision_tokens}, what, beside="--grid")
        return tuple(_view(text) for text in grids)
    if vision_tokens is None:
        if not described.views:
            raise ConfigError(
                "the config does not say how many vision tokens an image takes",
                field="--grid",
                remedy="add --image WIDTHxHEIGHT, --grid ROWSxCOLUMNS or --vision-tokens N",
            )
        return described.views
    check_least("--vision-tokens", vision_tokens)
    if vision_tokens == sum(view.tokens for view in described.views):
        return described.views
    return (ViewSize.of_count(vision_tokens),)


def _views_of(described: Description, text: str) -> tuple[ViewSize, ...]:
    """The views of a picture of `WIDTHxHEIGHT` pixels."""
    try:
        width, height = (int(side) for side in text.lower().split("x"))
    except ValueError as error:
        raise ConfigError(
            "the size of a picture is WIDTHxHEIGHT in pixels",
            field="--image",
            value=text,
            remedy="such as 1280x720",
        ) from error
    name = described.name
    path = checkpoint_path(name) if name in FOLDERS else Path(name).expanduser()
    folder = path if path.is_dir() else path.parent
    known = described.name not in DESCRIPTIONS and path.exists()
    return image_views(config_of(described), (height, width), folder if known else None)


def _view(text: str) -> ViewSize:
    newline = text.lower().endswith("n")
    try:
        sides = [int(side) for side in text.lower().removesuffix("n").split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (2, 3) or min(sides) < 1:
        raise ConfigError(
            "a grid is ROWSxCOLUMNS or FRAMESxROWSxCOLUMNS, with n at the end if each row is "
            "followed by a newline token",
            field="--grid",
            value=text,
            remedy="such as 24x24 or 32x48n",
        )
    frames, rows, columns = [1, *sides][-3:]
    return ViewSize((frames, rows, columns), newline)


def build_pipeline(
    strategy: PipelineSource,
    num_layers: int,
    retention: float | dict[str, float] | None,
    layers: str | None = None,
    windows: str | None = None,
    ratios: str | None = None,
    *,
    places: Places | None = None,
    min_layer: int = 0,
    block_size: int | None = None,
) -> Pipeline:
    """The strategy with a solved schedule, or with the stages that the options list.

    With a block size the schedule is solved as an engine with such blocks does.

    Raises:
        ConfigError: contradicting options or a schedule that cannot work.
    """
    spec, places = resolve_spec(strategy), (places or Places()).least(min_layer)
    if layers is None:
        refuse(
            {"--windows": windows, "--ratios": ratios},
            "stages need their layers too",
            remedy="add --layers, such as --layers 15,23,31",
        )
        changes = {} if retention is None else {"retention": retention}
        if block_size is not None:
            return serving_pipeline(
                spec, num_layers, block_size=block_size, places=places, **changes
            )
        return Pipeline.build(spec, num_layers, places=places, **changes)
    what = "the layers and ratios fix the retention"
    refuse({"--retention": retention}, what, beside="--layers")
    stages = _stages(spec, layers, windows, ratios)
    return Pipeline.build(spec, num_layers, places=places, schedule=stages)


def _stages(
    spec: PipelineSpec, layers: str, windows: str | None, ratios: str | None
) -> list[dict[str, Any]]:
    """Plain stages; windows that are not given are those of the preset."""
    after = _numbers("--layers", layers, int)
    shares = _spread("--ratios", _numbers("--ratios", ratios or "0.5", float), len(after))
    if windows is not None:
        sides: list[Any] = _spread("--windows", _numbers("--windows", windows, int), len(after))
    else:
        known = list(getattr(spec.schedule, "windows", ())) or [None]
        sides = (known + [known[-1]] * len(after))[: len(after)]
    return [
        {"after_layer": layer, "ratio": share, "windows": side}
        for layer, share, side in zip(after, shares, sides, strict=True)
    ]


def _numbers(option: str, text: str, kind: Callable[[str], N]) -> list[N]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(
            "not a list of numbers",
            field=option,
            value=text,
            remedy="numbers with commas between them, such as 15,23,31",
        ) from error


def _spread(option: str, values: list[N], count: int) -> list[N]:
    if len(values) == 1:
        return values * count
    if len(values) != count:
        raise ConfigError(
            f"{len(values)} entries for {count} stages",
            field=option,
            value=",".join(map(str, values)),
            remedy="give one entry for all stages or one for each of --layers",
        )
    return values


def published_stages(described: Description) -> tuple[str, str]:
    """`--layers` and `--windows` of the published operating point.

    Raises:
        ConfigError: there is none.
    """
    point = described.published
    if point is None:
        known = [made.name for made in DESCRIPTIONS.values() if made.published is not None]
        raise ConfigError(
            "no schedule was published for this model",
            field="--published",
            value=described.name,
            remedy=f"there is one for {', '.join(known)}; else give --retention or --layers",
        )
    return ",".join(map(str, point.layers)), ",".join(map(str, point.windows))
