"""The bundled checkpoint: where it is and how to load it."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
    ProcessorMixin,
)


def checkpoint_path() -> Path:
    """The folder of the bundled checkpoint, an ordinary one for ``from_pretrained``."""
    folder = Path(str(importlib.resources.files("lightkv.demo") / "checkpoint"))
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"no checkpoint in {folder}; train one with `python -m training.train --out DIR` "
            "and copy DIR/checkpoint there"
        )
    return folder


def load(dtype: torch.dtype | None = None) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The trained demo model, in evaluation mode (float32 unless `dtype` says otherwise), and its
    processor. Nothing is downloaded."""
    path = checkpoint_path()
    model = AutoModelForImageTextToText.from_pretrained(
        path, dtype=dtype or torch.float32, local_files_only=True
    )
    model.train(False)
    processor = AutoProcessor.from_pretrained(  # type: ignore[no-untyped-call]
        path, local_files_only=True
    )
    return model, processor
