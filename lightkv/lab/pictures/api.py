"""One call from files to files: `lightkv.lab.show`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightkv.core.errors import ConfigError
from lightkv.lab.pictures.data import Picture

if TYPE_CHECKING:
    from lightkv.core.session import Source

FORMATS = (".png", ".html")


def show(
    model: Any,
    images: Sequence[Any],
    prompts: Sequence[str],
    strategies: Sequence[Source] = ("lightkv",),
    *,
    processor: Any = None,
    retention: float | None = None,
    out: Sequence[str | Path] = (),
    max_new_tokens: int = 32,
    dtype: str = "auto",
    device: str | None = None,
) -> Picture:
    """Draw where the patches of pictures end, for one or two prompts and strategies.

        lightkv.lab.show("demo", ["scene.png"], ["what digit is red ?"], out=["scene.html"])

    Args:
        model: `demo`, a checkpoint directory or a hub id; or a loaded model, with its `processor`.
        images: pictures, or paths of them.
        prompts: one or two questions.
        strategies: one or two presets, specs or pipeline files.
        processor: of a loaded model.
        retention: mean share of vision KV over all layers; the preset's own if None.
        out: files to write, each `.png` or `.html`.
        max_new_tokens: of each answer.
        dtype, device: to load the model in.

    Returns:
        the data of the picture, for `draw_png`, `write_html` and programs.

    Raises:
        ConfigError: no pictures, more than two prompts or strategies, an unreadable picture, a file
            that cannot be written, is of another format or is one of the pictures.
        ModelError: a model that cannot be loaded or takes no pictures.
    """
    from lightkv.cli.command_run import open_image
    from lightkv.cli.loading import load_model
    from lightkv.core.pipeline import resolve_spec
    from lightkv.lab.imaging import rgb
    from lightkv.lab.pictures.collect import check_counts, collect

    check_counts(images, prompts, strategies)
    for path in out:
        check_target(path)
        check_apart(path, images)
    specs = [resolve_spec(strategy) for strategy in strategies]
    pictures = [open_image(Path(i)) if isinstance(i, str | Path) else rgb(i) for i in images]
    name = None
    if isinstance(model, str | Path):
        name = Path(model).name
        model, processor = load_model(str(model), dtype, device)
    elif processor is None:
        raise ConfigError(
            "a loaded model comes with its processor",
            field="processor",
            remedy="pass processor=AutoProcessor.from_pretrained(…)",
        )
    picture = collect(
        model,
        processor,
        pictures,
        prompts,
        specs,
        retention=retention,
        max_new_tokens=max_new_tokens,
        name=name,
    )
    for path in out:
        write(picture, path)
    return picture


def write(picture: Picture, path: str | Path) -> None:
    """Write a picture as the name of the file says."""
    from lightkv.lab.pictures.page import write_html
    from lightkv.lab.pictures.sheet import draw_png

    if check_target(path) == ".png":
        draw_png(picture, path)
    else:
        write_html(picture, path)


def check_target(path: str | Path) -> str:
    """The format of a file that is to be written.

    Raises:
        ConfigError: another format, or no such folder.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in FORMATS:
        raise ConfigError(
            "not a format that can be written",
            field="out",
            value=str(path),
            remedy=f"end the name in {' or '.join(FORMATS)}",
        )
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise ConfigError(
            "is a directory" if target.is_dir() else "its folder does not exist",
            field="out",
            value=str(path),
            remedy="name a file in a folder that exists",
        )
    return suffix


def check_apart(path: str | Path, images: Sequence[Any]) -> None:
    """Refuse to draw over a picture that is drawn on.

    Raises:
        ConfigError: the file is one of the pictures, under any name.
    """
    target = Path(path)
    for image in images:
        if isinstance(image, str | Path) and _same(target, Path(image)):
            raise ConfigError(
                "it would overwrite the picture that is drawn on",
                field="out",
                value=str(path),
                remedy="name another file",
            )


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False  # one of them does not exist, or cannot be looked at
