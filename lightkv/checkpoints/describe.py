"""Models without weights: their sizes, and the adapter that serves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lightkv.checkpoints.bundled import FOLDERS, checkpoint_path
from lightkv.checkpoints.published import DESCRIPTIONS, Description
from lightkv.core.cost.counting import ViewSize
from lightkv.core.cost.flops import DecoderShape
from lightkv.core.errors import ModelError, check_known
from lightkv.core.pipeline.places import Places
from lightkv.core.run.adapter import Adapter, find_adapter


def describe(source: str) -> Description:
    """Sizes of a model: built in, from a config file or from a checkpoint directory.

    Raises:
        ModelError: no such name or file, or a config that cannot be read or used.
    """
    if source in DESCRIPTIONS:
        return DESCRIPTIONS[source]
    path = checkpoint_path(source) if source in FOLDERS else Path(source).expanduser()
    if not path.exists():
        what = "there is no model, config file or checkpoint directory of that name"
        check_known(ModelError, what, "MODEL", source, [*DESCRIPTIONS, *FOLDERS])
    config = read_config(path)
    shape, places = _sizes(config)
    return Description(source, shape, _views(config), places, config=config)


def read_config(path: str | Path) -> Any:
    """The transformers config in a file or directory, or of a hub id; no code of others runs.

    Raises:
        ModelError: there is none, or transformers cannot read it.
    """
    local = isinstance(path, Path)
    if isinstance(path, Path) and path.is_dir() and not (path / "config.json").is_file():
        raise no_checkpoint(path, ["config.json"])
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path, local_files_only=local, trust_remote_code=False)
    except Exception as error:  # a config is a stranger's file and may fail in any way
        remedy = "give the config.json of a model that this transformers version knows"
        if not local:
            remedy = "give a directory, or an id that the hub knows and this machine can reach"
        raise ModelError(
            f"there is no config that transformers can read ({brief(error)})",
            field="model",
            value=str(path),
            remedy=remedy,
        ) from error


def find_on_meta(config: Any) -> tuple[Adapter, torch.nn.Module]:
    """The adapter of the model's family, and the model without weights that it was found on.

    Raises:
        ModelError: not an image-text model, or none that an adapter serves.
    """
    from transformers import AutoModelForImageTextToText

    try:
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    except Exception as error:  # sizes that do not fit, packages that are missing, text models
        raise ModelError(
            f"no image-text model can be made of a config of type {config.model_type!r} "
            f"({brief(error, 120)})",
            field="model",
            remedy="give a vision-language model",
        ) from error
    return find_adapter(model), model


def _sizes(config: Any) -> tuple[DecoderShape, Places]:
    """Sizes of the decoder, and where it lets stages act.

    Sizes of a family without an adapter are read the `generic` way.
    """
    try:
        adapter, model = find_on_meta(config)
    except ModelError:
        return find_adapter(torch.nn.Module(), "generic").shape(config), Places()
    return adapter.shape(config), adapter.places(model)


def _views(config: Any) -> tuple[Any, ...]:
    """The view of one image where the vision tower alone decides it, else nothing."""
    if getattr(config, "model_type", None) != "llava":
        return ()
    vision = config.vision_config
    side, patch = getattr(vision, "image_size", None), getattr(vision, "patch_size", None)
    if not isinstance(side, int) or not isinstance(patch, int) or vision.model_type == "pixtral":
        return ()
    return (ViewSize((1, side // patch, side // patch)),)


def no_checkpoint(path: Path, missing: list[str]) -> ModelError:
    """The error for a directory that lacks something."""
    return ModelError(
        f"the directory is not a checkpoint: it lacks {', '.join(missing)}",
        field="model",
        value=str(path),
        remedy="give a folder written by save_pretrained of both model and processor, "
        f"or one of {', '.join(FOLDERS)} for a bundled model",
    )


def brief(error: BaseException, limit: int = 200) -> str:
    """The first sentence of an error that may be a page long."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text.split(". ")[0].rstrip(".")
    return text if len(text) <= limit else text[: limit - 1] + "…"
