"""The bundled models, loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightkv.checkpoints.bundled import BUNDLED, VIDEO, checkpoint_path
from lightkv.core.errors import ModelError, check_known

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ProcessorMixin

NAMES = {"scenes": BUNDLED, "video": VIDEO}
"""What `load` calls them, and what the command line and the lab do."""


def load(
    name: str = "scenes", dtype: torch.dtype | None = None
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A trained bundled model, in evaluation mode, and its processor. Nothing is downloaded.

    Args:
        name: `scenes`: a LLaVA for pictures of one size. `video`: a Qwen2.5-VL for pictures of any size,
            pairs of them, and clips.
        dtype: of the weights; float32 by default.

    Raises:
        ModelError: no bundled model has the name, this lightkv was built without it, or transformers
            needs a package that cannot be imported.
    """
    import torch

    from lightkv.checkpoints.library_errors import import_problem
    from lightkv.checkpoints.processors import read_processor

    check_known(ModelError, "no bundled model has this name", "name", name, NAMES)
    path = checkpoint_path(NAMES[name])
    try:
        from transformers import AutoModelForImageTextToText

        model = AutoModelForImageTextToText.from_pretrained(
            path, dtype=dtype or torch.float32, local_files_only=True
        )
        processor = read_processor(path)
    except Exception as error:  # a package that does not fit may raise anything
        told = import_problem(error, "name", name)
        if told is None:
            raise
        raise told from error
    model.train(False)
    return model, processor
