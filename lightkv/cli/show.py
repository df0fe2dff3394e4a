"""`lightkv show`: where the patches of pictures and clips end, as PNG and as an interactive page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
from lightkv.cli.output import console, print_json
from lightkv.core.errors import ConfigError

if TYPE_CHECKING:
    from lightkv.lab.pictures import Picture

SEED = 2026
"""Of the held-out scenes and clips that `--scene` and `--clip` count."""
SCENES = 1000


def show(
    model: Model = "demo",
    image: Images = None,
    video: Annotated[
        list[Path] | None,
        typer.Option(help="A folder of frames, or an animated GIF, PNG or WebP; repeatable."),
    ] = None,
    scene: Annotated[
        int | None, typer.Option(help=f"A held-out digit scene instead, 0 to {SCENES - 1}.")
    ] = None,
    clip: Annotated[
        int | None, typer.Option(help=f"A held-out clip of digits instead, 0 to {SCENES - 1}.")
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="The question; give two to compare them.")
    ] = None,
    strategy: Annotated[
        list[str] | None, typer.Option(help="A preset or pipeline file [lightkv]; up to two.")
    ] = None,
    retention: Retention = None,
    changes: PipelineChanges = None,
    out: Annotated[
        list[Path] | None, typer.Option(help="A .png or .html file [show.html]; repeatable.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Of each answer, at most.")] = 32,
    dtype: Dtype = "auto",
    device: Device = None,
    json: Json = False,
) -> None:
    """Draw which patches merged into one token, which were dropped, and the guidance behind it."""
    from lightkv.lab.pictures.show import show as draw

    targets = out or [Path("show.html")]
    images, videos, hint = _seen(image, video, scene, clip)
    if not prompt:
        raise ConfigError("there is no question", field="--prompt", remedy=hint)
    picture = draw(
        model,
        images,
        prompt,
        [chosen(each, changes, {"--retention": retention}) for each in strategy or ["lightkv"]],
        videos=videos,
        retention=retention,
        out=targets,
        max_new_tokens=max_new_tokens,
        dtype=dtype,
        device=device,
    )
    if json:
        print_json({**picture.to_dict(), "written": [str(target) for target in targets]})
    else:
        _tell(picture, targets)


def _seen(
    images: list[Path] | None, videos: list[Path] | None, scene: int | None, clip: int | None
) -> tuple[list[Any], list[Any], str]:
    """Pictures and clips or their paths, and what to ask about them."""
    number, option = (clip, "--clip") if scene is None else (scene, "--scene")
    if number is None:
        if not images and not videos:
            raise ConfigError(
                "there is no picture to draw on",
                field="--image",
                remedy="give --image FILE, --video FOLDER, or --scene NUMBER for the bundled model",
            )
        return list(images or ()), list(videos or ()), 'ask something: --prompt "What is this?"'
    other: dict[str, Any] = {"--image": images or None, "--video": videos or None}
    if scene is not None:
        other["--clip"] = clip
    what = "pictures and clips come from files or are held-out ones, not both"
    refuse(other, what, beside=option)
    if not 0 <= number < SCENES:
        raise ConfigError(
            f"held-out scenes and clips are counted from 0 to {SCENES - 1}",
            field=option,
            value=number,
        )
    return _held_out(number, option)


def _held_out(number: int, option: str) -> tuple[list[Any], list[Any], str]:
    """A scene or a clip, and questions that can be asked about it."""
    from lightkv.demo.clips import numbered_clip
    from lightkv.demo.scenes import numbered_scene

    images, videos, asked = [], [], ""
    if option == "--scene":
        scene, questions = numbered_scene(number, SEED)
        images = [scene.image]
        asked = ", ".join(f'--prompt "{question.text}"' for question in questions)
    else:
        clip, timely = numbered_clip(number, SEED)
        videos = [clip.frames]
        asked = ", ".join(f'--prompt "{question.text}"' for question in timely)
    return images, videos, f"of this {option[2:]} you can ask: {asked}"


def _tell(picture: Picture, targets: list[Path]) -> None:
    lines = console()
    for run in picture.runs:
        kept = "".join(f", {stage.title} {stage.left}" for stage in run.stages[:6])
        more = ", …" if len(run.stages) > 6 else ""
        lines.print(f"{run.strategy} · {run.prompt} · {run.answer}")
        note = f"; {run.remark}" if run.remark else ""
        lines.print(
            f"  retention {run.retention:.3f}; {picture.count} tokens{kept}{more}{note}",
            style="dim",
        )
    for target in targets:
        lines.print(f"wrote {target}")
