"""One call from files to files: `lightkv.lab.show`. What it is given is checked before a model loads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightkv.core.errors import ConfigError, check_least
from lightkv.lab.pictures.data import Picture

if TYPE_CHECKING:
    from lightkv.core.pipeline.pipeline import PipelineSource

FORMATS = (".png", ".html")


def show(
    model: Any,
    images: Any = None,
    prompts: Sequence[str] = (),
    strategies: Sequence[PipelineSource] = ("lightkv",),
    *,
    videos: Any = None,
    processor: Any = None,
    retention: float | None = None,
    out: str | Path | Sequence[str | Path] = (),
    max_new_tokens: int = 32,
    dtype: str = "auto",
    device: str | None = None,
) -> Picture:
    """Draw where the patches of pictures and clips end, for one or two prompts and strategies.

        lightkv.lab.show("demo", ["scene.png"], ["what digit is red ?"], out=["scene.html"])

    Args:
        model: `demo`, a checkpoint directory or a hub id; or a loaded model, with its `processor`.
        images: pictures, or paths of them; a single one needs no list.
        prompts: one or two questions.
        strategies: one or two presets, specs or pipeline files.
        videos: clips: folders of frames, animated pictures, arrays `[F, H, W, 3]` or lists of frames; a
            single one needs no list. They stand behind the pictures in the prompt.
        processor: of a loaded model.
        retention: mean share of vision KV over all layers; the preset's own if None.
        out: a file to write, or several, each `.png` or `.html`.
        max_new_tokens: of each answer.
        dtype, device: to load the model in.

    Returns:
        the data of the picture, for `draw_png`, `write_html` and programs.

    Raises:
        ConfigError: nothing to draw on, more than two prompts or strategies, arguments of a wrong type,
            an unreadable picture or clip, a file that cannot be written, is of another format or is one
            of the pictures.
        ModelError: a model that cannot be loaded, or takes no pictures or no clips.
    """
    from lightkv.checkpoints.clips import open_clip
    from lightkv.checkpoints.load import load_model
    from lightkv.core.pipeline.pipeline import resolve_spec
    from lightkv.lab.pictures.collect import check_counts, collect

    images, videos, targets = image_list(images), video_list(videos), target_list(out)
    check_counts([*images, *videos], prompts, strategies)
    check_options(prompts, max_new_tokens, dtype)
    for path in targets:
        check_target(path)
        check_apart(path, [*images, *videos])
    specs = [resolve_spec(strategy) for strategy in strategies]
    pictures, clips = opened(images), [open_clip(video) for video in videos]
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
        videos=clips,
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


# -- arguments -------------------------------------------------------------------------------------


def image_list(images: Any) -> list[Any]:
    """The pictures or paths; one alone is a list of one.

    Raises:
        ConfigError: nothing that pictures can be taken from.
    """
    from PIL import Image

    if isinstance(images, str | Path | Image.Image):
        return [images]
    if images is None:
        return []
    if not isinstance(images, Iterable) or isinstance(images, Mapping):
        raise _not_a_picture(images)
    return list(images)


def video_list(videos: Any) -> list[Any]:
    """The clips; one alone is a list of one.

    Raises:
        ConfigError: nothing that clips can be taken from.
    """
    import numpy as np
    from PIL import Image

    if videos is None:
        return []
    if isinstance(videos, str | Path) or getattr(videos, "ndim", None) == 4:
        return [videos]
    if not isinstance(videos, Iterable) or isinstance(videos, Mapping | Image.Image):
        raise ConfigError(
            "not a clip",
            field="video",
            value=type(videos).__name__,
            remedy="give a path, frames [F, H, W, 3], or a list of them",
        )
    found = list(videos)
    frames = [
        isinstance(f, Image.Image) or (isinstance(f, np.ndarray) and f.ndim == 3) for f in found
    ]
    return [found] if found and all(frames) else found


def opened(images: Sequence[Any]) -> list[Any]:
    """The pictures in RGB, upright.

    Raises:
        ConfigError: neither a picture nor the path of one, an unreadable file, no pixels.
    """
    from PIL import Image

    from lightkv.checkpoints.pictures import open_image, rgb

    found = []
    for image in images:
        if isinstance(image, str | Path):
            found.append(open_image(Path(image)))
        elif not isinstance(image, Image.Image) or not image.width * image.height:
            raise _not_a_picture(image)
        else:
            found.append(rgb(image))
    return found


def _not_a_picture(given: Any) -> ConfigError:
    return ConfigError(
        "not a picture, or one without pixels",
        field="image",
        value=type(given).__name__,
        remedy="give paths, or pictures of PIL.Image (Image.fromarray makes them from arrays)",
    )


def target_list(out: Any) -> list[str | Path]:
    """The files to write; one alone is a list of one.

    Raises:
        ConfigError: something else than paths.
    """
    if isinstance(out, str | Path):
        return [out]
    found = list(out) if isinstance(out, Iterable) and not isinstance(out, Mapping) else [out]
    for path in found:
        if not isinstance(path, str | Path):
            raise ConfigError(
                "not the path of a file",
                field="out",
                value=path,
                remedy='give paths such as "show.html"',
            )
    return found


def check_options(prompts: Sequence[Any], max_new_tokens: Any, dtype: Any) -> None:
    """Refuse values that a model would choke on, or run with and mean something else.

    Raises:
        ConfigError: a prompt or dtype that is no text, answers of no tokens.
    """
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise ConfigError("a question is a text", field="prompt", value=prompt)
    if not isinstance(max_new_tokens, int) or isinstance(max_new_tokens, bool):
        raise ConfigError("must be a whole number", field="max_new_tokens", value=max_new_tokens)
    check_least("max_new_tokens", max_new_tokens)
    if not isinstance(dtype, str):
        raise ConfigError(
            "a dtype is named by a text",
            field="dtype",
            value=dtype,
            remedy="give auto, float32, bfloat16 or float16",
        )


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
    if "\0" in str(path):
        raise ConfigError("not the name of a file", field="out", value=str(path))
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
