"""GLM-4.1V and later: dynamic grids as in Qwen2-VL; frames of a video are runs with time stamps between.

Images and video frames have the same placeholder id; the token types that the processor gives tell them
apart. A video is one picture of all its temporal patches, whatever text stands between the runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lightkv.adapters.families.qwen_vl import QwenVLAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Placeholders
from lightkv.core.errors import ModelError

TYPES = {"image": 1, "video": 2}
"""Token types of the processor."""


class Glm4vAdapter(QwenVLAdapter):
    """`Glm4vForConditionalGeneration`, those of GLM-4.5V and GLM-4.6V, and GLM-OCR."""

    name = "glm4v"
    models = "GLM-4.1V, GLM-4.5V, GLM-4.6V, GLM-OCR"
    model_types = ("glm4v", "glm46v", "glmga", "glm4v_moe", "glm_ocr")

    def placeholders(self, config: Any, inputs: ModelInputs, modality: str) -> Placeholders:
        every = inputs.placeholders(config.image_token_id)
        return np.asarray(every & (token_types(inputs) == TYPES[modality]))


def token_types(inputs: ModelInputs) -> npt.NDArray[np.int64]:
    """`[B, N]` types of the new tokens.

    Raises:
        ModelError: they were not given; rotary positions would be wrong without them, too.
    """
    types = inputs.arguments.get("mm_token_type_ids")
    if types is None:
        raise ModelError(
            "images were given without token types, so images and videos look the same",
            field="mm_token_type_ids",
            remedy="pass everything that the processor returns, mm_token_type_ids included",
        )
    found = np.asarray(types[:, -inputs.length :].detach().cpu().numpy())
    # Drafts of assisted decoding stand after the prompt without types: they are text.
    return np.pad(found, ((0, 0), (0, inputs.length - found.shape[1])))
