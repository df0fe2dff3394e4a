"""What `lightkv.lab.show` may be given, checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightkv.core.errors import ConfigError

FORMATS = (".png", ".html")


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
    if max_new_tokens < 1:
        raise ConfigError("must be at least 1", field="max_new_tokens", value=max_new_tokens)
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
