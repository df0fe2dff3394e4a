"""`lightkv show`: where the patches of a picture end, as PNG and as an interactive page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lightkv.cli.options import Device, Dtype, Images, Model, Retention
from lightkv.cli.output import console
from lightkv.core.errors import ConfigError

if TYPE_CHECKING:
    from lightkv.lab.pictures import Picture

SEED = 2026
"""Of the held-out scenes that `--scene` counts."""
SCENES = 1000


def show(
    model: Model = "demo",
    image: Images = None,
    scene: Annotated[
        int | None, typer.Option(help=f"A held-out digit scene instead, 0 to {SCENES - 1}.")
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="The question; give two to compare them.")
    ] = None,
    strategy: Annotated[
        list[str] | None, typer.Option(help="A preset or pipeline file [lightkv]; up to two.")
    ] = None,
    retention: Retention = None,
    out: Annotated[
        list[Path] | None, typer.Option(help="A .png or .html file [show.html]; repeatable.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Of each answer, at most.")] = 32,
    dtype: Dtype = "auto",
    device: Device = None,
) -> None:
    """Draw which patches merged into one token, which were dropped, and the guidance behind it."""
    from lightkv.lab.pictures.show import show as draw

    targets = out or [Path("show.html")]
    images, hint = _images(image, scene)
    if not prompt:
        raise ConfigError("there is no question", field="--prompt", remedy=hint)
    picture = draw(
        model,
        images,
        prompt,
        strategy or ["lightkv"],
        retention=retention,
        out=targets,
        max_new_tokens=max_new_tokens,
        dtype=dtype,
        device=device,
    )
    _tell(picture, targets)


def _images(paths: list[Path] | None, scene: int | None) -> tuple[list[Any], str]:
    """Pictures or their paths, and what to ask about them."""
    if bool(paths) == (scene is not None):
        raise ConfigError(
            "pictures come from files or are a scene, not both"
            if paths
            else "there is no picture to draw on",
            field="--image",
            remedy="give --image FILE, or --scene NUMBER for the bundled model",
        )
    if scene is None:
        return list(paths or ()), 'ask something: --prompt "What is this?"'
    if not 0 <= scene < SCENES:
        raise ConfigError(
            f"held-out scenes are counted from 0 to {SCENES - 1}", field="--scene", value=scene
        )
    from lightkv.demo.scenes import held_out_scenes

    found, questions = held_out_scenes(scene + 1, SEED)[scene]
    asked = ", ".join(f'--prompt "{question.text}"' for question in questions)
    return [found.image], f"of this scene you can ask: {asked}"


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
