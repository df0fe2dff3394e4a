"""The bundled model, loaded."""

from __future__ import annotations

import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
    ProcessorMixin,
)

from lightkv.checkpoints.bundled import checkpoint_path


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
