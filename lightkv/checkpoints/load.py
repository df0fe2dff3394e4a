"""Models with weights: the bundled one, a checkpoint directory or a hub id."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from lightkv.checkpoints.bundled import FOLDERS, checkpoint_path
from lightkv.checkpoints.describe import find_on_meta, no_checkpoint, read_config
from lightkv.checkpoints.library_errors import brief, import_problem
from lightkv.checkpoints.processors import read_processor
from lightkv.core.errors import ConfigError, ModelError, check_known

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


def load_model(source: str, dtype: str, device: str | None) -> tuple[Any, Any]:
    """A model in evaluation mode and its processor.

    Args:
        source: `demo` or `demo-video` (the bundled models), a checkpoint directory or a hub id.
        dtype: one of `DTYPES`.
        device: such as `cuda:0`; a GPU if there is one, when None.

    Raises:
        ModelError: not a checkpoint of an image-text model.
        ConfigError: an unknown dtype or device.
    """
    place = _device(device)
    check_known(ConfigError, "not a dtype to load a model in", "--dtype", dtype, DTYPES)
    quiet_libraries()
    if source in FOLDERS:
        path: str | Path = checkpoint_path(source)
    elif (local := Path(source).expanduser()).exists():
        check_checkpoint(local)
        path = local
    elif source.startswith((".", "~", os.sep)) or source.count("/") > 1:
        raise ModelError(
            "there is no such directory",
            field="--model",
            value=source,
            remedy=f"give a checkpoint directory, a hub id (owner/name) or one of {', '.join(FOLDERS)}",
        )
    else:
        path = source
    return _from_pretrained(path, dtype, place)


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "meta":
            raise RuntimeError("it holds no values")
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"the device cannot be used ({brief(error)})",
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
        raise no_checkpoint(path, missing)


def _from_pretrained(path: str | Path, dtype: str, device: torch.device) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText

    local = isinstance(path, Path)
    find_on_meta(read_config(path))  # before gigabytes of weights are read for nothing
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            path, dtype=dtype, local_files_only=local, trust_remote_code=False
        )
        processor = read_processor(path)
    except Exception as error:  # libraries report a bad checkpoint in every possible way
        raise import_problem(error, "--model", str(path)) or ModelError(
            f"transformers cannot load the checkpoint ({brief(error)})",
            field="--model",
            value=str(path),
            remedy="give a folder written by save_pretrained of both model and processor",
        ) from error
    return model.eval().to(device), processor
