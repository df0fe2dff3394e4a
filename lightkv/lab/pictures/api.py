"""One call from files to files: `lightkv.lab.show`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightkv.core.errors import ConfigError
from lightkv.lab.pictures.arguments import (
    check_apart,
    check_options,
    check_target,
    image_list,
    opened,
    target_list,
)
from lightkv.lab.pictures.data import Picture

if TYPE_CHECKING:
    from lightkv.core.pipeline.pipeline import PipelineSource


def show(
    model: Any,
    images: Any,
    prompts: Sequence[str],
    strategies: Sequence[PipelineSource] = ("lightkv",),
    *,
    processor: Any = None,
    retention: float | None = None,
    out: str | Path | Sequence[str | Path] = (),
    max_new_tokens: int = 32,
    dtype: str = "auto",
    device: str | None = None,
) -> Picture:
    """Draw where the patches of pictures end, for one or two prompts and strategies.

        lightkv.lab.show("demo", ["scene.png"], ["what digit is red ?"], out=["scene.html"])

    Args:
        model: `demo`, a checkpoint directory or a hub id; or a loaded model, with its `processor`.
        images: pictures, or paths of them; a single one needs no list.
        prompts: one or two questions.
        strategies: one or two presets, specs or pipeline files.
        processor: of a loaded model.
        retention: mean share of vision KV over all layers; the preset's own if None.
        out: a file to write, or several, each `.png` or `.html`.
        max_new_tokens: of each answer.
        dtype, device: to load the model in.

    Returns:
        the data of the picture, for `draw_png`, `write_html` and programs.

    Raises:
        ConfigError: no pictures, more than two prompts or strategies, arguments of a wrong type, an
            unreadable picture, a file that cannot be written, is of another format or is one of the
            pictures.
        ModelError: a model that cannot be loaded or takes no pictures.
    """
    from lightkv.checkpoints.load import load_model
    from lightkv.core.pipeline.pipeline import resolve_spec
    from lightkv.lab.pictures.collect import check_counts, collect

    images, targets = image_list(images), target_list(out)
    check_counts(images, prompts, strategies)
    check_options(prompts, max_new_tokens, dtype)
    for path in targets:
        check_target(path)
        check_apart(path, images)
    specs = [resolve_spec(strategy) for strategy in strategies]
    pictures = opened(images)
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
    for path in targets:
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
