"""Pictures are looked at where vLLM reads them, so that a request that cannot be served is refused there.

Behind this place an error would end the engine; here it is an answer of status 400 to its sender.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.multimodal import MULTIMODAL_REGISTRY

from lightkv.core.errors import LightKVError
from lightkv.integrations.vllm.pictures import PictureReader


class RequestError(LightKVError, VLLMValidationError):
    """A request that lightkv cannot serve, as vLLM knows such errors; `__cause__` has the type."""

    def __init__(self, error: LightKVError) -> None:
        super().__init__(error.message, field=error.field, remedy=error.remedy)
        self.parameter, self.value = error.field, error.value


@dataclass(frozen=True)
class Placed:
    """A picture as the processor leaves it; the engine makes a `MultiModalFeatureSpec` of it.

    Attributes:
        data: its processed fields.
        modality: `image` or `video`.
        identifier: hash of the picture.
        mm_position: where its placeholders stand.
    """

    data: Any
    modality: str
    identifier: str
    mm_position: Any


class Looking:
    """What lightkv adds to a multimodal processor of vLLM."""

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        made = super().apply(*args, **kwargs)  # type: ignore[misc]
        try:
            self._reader.spans(_placed(made))
        except LightKVError as error:
            raise RequestError(error) from error
        return made

    @property
    def _reader(self) -> PictureReader:
        if not hasattr(self, "_lightkv"):
            config = self.info.ctx.model_config.hf_config  # type: ignore[attr-defined]
            self._lightkv = PictureReader(config)
        return self._lightkv


def _placed(made: Any) -> list[Placed]:
    """The pictures of a processed prompt whose data are here.

    Data that the engine's cache holds already are not sent again: such a picture was looked at before.
    """
    return [
        Placed(item, modality, identifier, place)
        for modality, places in made["mm_placeholders"].items()
        for item, identifier, place in zip(
            made["mm_kwargs"][modality], made["mm_hashes"][modality], places, strict=True
        )
        if item is not None
    ]


def looks(processor: Any, info: Any = None) -> Any:
    """Decorator of a model class: its pictures are read by vLLM's `processor`, and looked at.

    Args:
        processor: class that its base is registered with.
        info: in place of what the base is registered with.
    """
    checked = type(f"Looking{processor.__name__}", (Looking, processor), {})

    def register(model: Any) -> Any:
        base = model._processor_factory
        return MULTIMODAL_REGISTRY.register_processor(
            checked, info=info or base.info, dummy_inputs=base.dummy_inputs
        )(model)

    return register
