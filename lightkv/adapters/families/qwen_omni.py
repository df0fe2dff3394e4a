"""The thinkers of Qwen2.5-Omni and Qwen3-Omni: pictures and videos as Qwen-VL has them, and recordings.

The sound of a video may stand between its frames, chunk by chunk: placeholders tell the two apart, and
each has a view of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from lightkv.adapters.families.qwen2_audio import pooled
from lightkv.adapters.families.qwen3_asr import chunked
from lightkv.adapters.families.qwen3_vl import Qwen3VLAdapter
from lightkv.adapters.families.qwen_vl import QwenVLAdapter
from lightkv.adapters.hf import contact
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Picture, Placeholders, recording
from lightkv.core.errors import ModelError
from lightkv.core.run.refusal import REFUSED, Standing


class QwenOmniAdapter(QwenVLAdapter):
    """`Qwen2_5OmniThinkerForConditionalGeneration`."""

    name = "qwen_omni"
    models = "Qwen2.5-Omni (its thinker)"
    model_types = ("qwen2_5_omni_thinker",)
    modalities = ("image", "video", "audio")

    def standing(self, model_type: str) -> Standing | None:
        return standing_with("Qwen2_5OmniThinkerModel", super().standing(model_type))

    def input_module(self, model: nn.Module) -> nn.Module:
        return merging_module(model, super().input_module(model))

    def audios(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        frames = inputs.lengths("audio", "feature_attention_mask")
        return [recording(pooled(length)) for length in frames]


class Qwen3OmniAdapter(Qwen3VLAdapter):
    """`Qwen3OmniMoeThinkerForConditionalGeneration`."""

    name = "qwen3_omni"
    models = "Qwen3-Omni (its thinker)"
    model_types = ("qwen3_omni_moe_thinker",)
    modalities = ("image", "video", "audio")

    def standing(self, model_type: str) -> Standing | None:
        return standing_with("Qwen3OmniMoeThinkerModel", super().standing(model_type))

    def input_module(self, model: nn.Module) -> nn.Module:
        return merging_module(model, super().input_module(model))

    def audios(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        chunk = 2 * config.audio_config.n_window
        frames = inputs.lengths("audio", "feature_attention_mask")
        return [recording(chunked(length, chunk)) for length in frames]


OLDER = "this release of transformers builds thinkers in another way, which lightkv does not know"
REMEDY = "use a later release of transformers"


def standing_with(module: str, known: Standing | None) -> Standing | None:
    """What becomes of a type where the module that merges is a class of its own, or not yet."""
    if known is None or contact.has_class(module):
        return known
    return Standing(REFUSED, OLDER, REMEDY)


def merging_module(model: nn.Module, inner: nn.Module) -> nn.Module:
    """The module inside a thinker that merges what it sees and hears with the text.

    Raises:
        ModelError: a release of transformers where the thinker does it itself.
    """
    if hasattr(inner, "audio_tower"):
        return inner
    raise ModelError(
        OLDER,
        field="model",
        value=type(model).__name__,
        remedy=REMEDY,
    )
