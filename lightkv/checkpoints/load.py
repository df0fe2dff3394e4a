"""Models for the commands: from a built-in name, a config, a checkpoint directory or a hub id."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightkv.core.errors import ConfigError, ModelError, nearest

if TYPE_CHECKING:
    import torch

    from lightkv.checkpoints.published import Description
    from lightkv.core.cost.flops import DecoderShape
    from lightkv.core.run.adapter import Adapter

BUNDLED = "demo"
"""The name of the bundled model."""
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin*")
PROCESSORS = ("processor_config.json", "preprocessor_config.json")
DTYPES = ("auto", "float32", "bfloat16", "float16")


def quiet_libraries() -> None:
    """No progress bars and no advice of the libraries between the lines of a command."""
    import transformers
    from huggingface_hub.utils import logging as hub_logging

    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


# -- descriptions ---------------------------------------------------------------------------------


def describe(source: str) -> Description:
    """Sizes of a model: built in, from a config file or from a checkpoint directory.

    Raises:
        ModelError: no such name or file, or a config that cannot be read or used.
    """
    from lightkv.checkpoints.published import DESCRIPTIONS, Description

    if source in DESCRIPTIONS:
        return DESCRIPTIONS[source]
    path = bundled_path() if source == BUNDLED else Path(source).expanduser()
    if not path.exists():
        raise ModelError(
            "there is no model, config file or checkpoint directory of that name",
            field="MODEL",
            value=source,
            remedy=f"{nearest(source, DESCRIPTIONS)}There are: {', '.join(DESCRIPTIONS)}, {BUNDLED}",
        )
    config = read_config(path)
    shape, min_layer = _sizes(config)
    return Description(source, shape, _views(config), min_layer, config=config)


def read_config(path: str | Path) -> Any:
    """The transformers config in a file or directory, or of a hub id; no code of others runs.

    Raises:
        ModelError: there is none, or transformers cannot read it.
    """
    local = isinstance(path, Path)
    if isinstance(path, Path) and path.is_dir() and not (path / "config.json").is_file():
        raise _no_checkpoint(path, ["config.json"])
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path, local_files_only=local, trust_remote_code=False)
    except Exception as error:  # a config is a stranger's file and may fail in any way
        remedy = "give the config.json of a model that this transformers version knows"
        if not local:
            remedy = "give a directory, or an id that the hub knows and this machine can reach"
        raise ModelError(
            f"there is no config that transformers can read ({_brief(error)})",
            field="model",
            value=str(path),
            remedy=remedy,
        ) from error


def find_on_meta(config: Any) -> tuple[Adapter, torch.nn.Module]:
    """The adapter of the model's family, and the model without weights that it was found on.

    Raises:
        ModelError: not an image-text model, or none that an adapter serves.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    from lightkv.core.run.adapter import find_adapter

    try:
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    except Exception as error:  # sizes that do not fit, packages that are missing, text models
        raise ModelError(
            f"no image-text model can be made of a config of type {config.model_type!r} "
            f"({_brief(error, 120)})",
            field="model",
            remedy="give a vision-language model",
        ) from error
    return find_adapter(model), model


def _sizes(config: Any) -> tuple[DecoderShape, int]:
    """Sizes of the decoder and layers before the first stage.

    Those of a family without an adapter are read the `generic` way.
    """
    import torch

    from lightkv.core.run.adapter import find_adapter

    try:
        adapter, model = find_on_meta(config)
    except ModelError:
        model = torch.nn.Module()
        adapter = find_adapter(model, "generic")
    return adapter.shape(config), adapter.min_layer(model)


def _views(config: Any) -> tuple[Any, ...]:
    """The view of one image where the vision tower alone decides it, else nothing."""
    from lightkv.core.cost.counting import ViewSize

    if getattr(config, "model_type", None) != "llava":
        return ()
    vision = config.vision_config
    side, patch = getattr(vision, "image_size", None), getattr(vision, "patch_size", None)
    if not isinstance(side, int) or not isinstance(patch, int) or vision.model_type == "pixtral":
        return ()
    return (ViewSize((1, side // patch, side // patch)),)


# -- weights --------------------------------------------------------------------------------------


def load_model(source: str, dtype: str, device: str | None) -> tuple[Any, Any]:
    """A model in evaluation mode and its processor.

    Args:
        source: `demo`, a checkpoint directory or a hub id.
        dtype: one of `DTYPES`.
        device: such as `cuda:0`; a GPU if there is one, when None.

    Raises:
        ModelError: not a checkpoint of an image-text model.
        ConfigError: an unknown dtype or device.
    """
    place = _device(device)
    if dtype not in DTYPES:
        raise ConfigError(
            "not a dtype to load a model in",
            field="--dtype",
            value=dtype,
            remedy=f"{nearest(dtype, DTYPES)}There are: {', '.join(DTYPES)}",
        )
    quiet_libraries()
    if source == BUNDLED:
        path: str | Path = bundled_path()
    elif (local := Path(source).expanduser()).exists():
        check_checkpoint(local)
        path = local
    elif source.startswith((".", "~", os.sep)) or source.count("/") > 1:
        raise ModelError(
            "there is no such directory",
            field="--model",
            value=source,
            remedy=f"give a checkpoint directory, a hub id (owner/name) or {BUNDLED!r}",
        )
    else:
        path = source
    return _from_pretrained(path, dtype, place)


def bundled_path() -> Path:
    """Folder of the bundled checkpoint.

    Raises:
        ModelError: the package was built without it.
    """
    from lightkv.demo import model

    try:
        return model.checkpoint_path()
    except FileNotFoundError as error:
        raise ModelError(str(error), field="--model", value=BUNDLED) from error


def _device(name: str | None) -> torch.device:
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "meta":
            raise RuntimeError("it holds no values")
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"the device cannot be used ({_brief(error)})",
            field="--device",
            value=name,
            remedy="use cpu, or a GPU that torch sees, such as cuda:0",
        ) from error
    return device


def check_checkpoint(path: Path) -> None:
    """Raise `ModelError` with what a directory lacks to be the checkpoint of an image-text model."""
    if not path.is_dir():
        raise ModelError(
            "a file is no checkpoint",
            field="--model",
            value=str(path),
            remedy="give the directory that holds config.json, weights and processor",
        )
    missing = []
    if not (path / "config.json").is_file():
        missing.append("config.json")
    if not any(any(path.glob(pattern)) for pattern in WEIGHTS):
        missing.append("weights (*.safetensors)")
    if not any((path / name).is_file() for name in PROCESSORS):
        missing.append(f"a processor ({' or '.join(PROCESSORS)})")
    if missing:
        raise _no_checkpoint(path, missing)


def _no_checkpoint(path: Path, missing: list[str]) -> ModelError:
    return ModelError(
        f"the directory is not a checkpoint: it lacks {', '.join(missing)}",
        field="model",
        value=str(path),
        remedy="give a folder written by save_pretrained of both model and processor, "
        f"or {BUNDLED!r} for the bundled model",
    )


def _from_pretrained(path: str | Path, dtype: str, device: torch.device) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    local = isinstance(path, Path)
    find_on_meta(read_config(path))  # before gigabytes of weights are read for nothing
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            path, dtype=dtype, local_files_only=local, trust_remote_code=False
        )
        processor = AutoProcessor.from_pretrained(
            path, local_files_only=local, trust_remote_code=False
        )
    except Exception as error:  # libraries report a bad checkpoint in every possible way
        raise ModelError(
            f"transformers cannot load the checkpoint ({_brief(error)})",
            field="--model",
            value=str(path),
            remedy="give a folder written by save_pretrained of both model and processor",
        ) from error
    return model.eval().to(device), processor


def _brief(error: BaseException, limit: int = 200) -> str:
    """The first sentence of an error that may be a page long."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text.split(". ")[0].rstrip(".")
    return text if len(text) <= limit else text[: limit - 1] + "…"
