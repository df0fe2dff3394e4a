"""vLLM's multimodal processors, whose results are checked in the process that a request comes to.

A processor exists in the engine's other processes too, where only inputs that vLLM made up go through
it. Those are never checked and never counted.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

from vllm.model_executor.models.interns1 import InternS1MultiModalProcessor
from vllm.model_executor.models.llava import LlavaMultiModalProcessor
from vllm.model_executor.models.llava_next import LlavaNextMultiModalProcessor
from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLMultiModalProcessor
from vllm.model_executor.models.qwen2_vl import Qwen2VLMultiModalProcessor
from vllm.model_executor.models.qwen3_vl import Qwen3VLMultiModalProcessor
from vllm.multimodal.processing.inputs import ProcessorInputs

from lightkv.core.errors import LightKVError
from lightkv.integrations.vllm.bad_request import BadRequest
from lightkv.integrations.vllm.checks import RequestChecks
from lightkv.integrations.vllm.configure import engine_of
from lightkv.integrations.vllm.counters import Counters
from lightkv.integrations.vllm.savings import Savings
from lightkv.integrations.vllm.setup import plan_of


class Front:
    """What the process that requests come to knows of its engine.

    Args:
        engine: configuration of the engine; vLLM corrects it once the engine has started.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        plan = plan_of(engine)
        self.checks = RequestChecks(engine.model_config.hf_config, plan)
        self.savings = Savings(plan)
        self.counters = Counters(engine.model_config, plan.pipeline)

    def look(self, made: Any) -> None:
        """Check what a processor made of a prompt with pictures, and count it.

        Raises:
            BadRequest: the engine could not serve it.
        """
        features = features_of(made)
        if not all(self.checks.pictures.readable(feature) for feature in features):
            return  # Cached in the engine's process only, and forgotten here: the scheduler looks again.
        prompt = len(made["prompt_token_ids"])
        try:
            entry = self.checks.entry(
                features, prompt, self.engine.scheduler_config.max_num_batched_tokens
            )
        except LightKVError as error:
            raise BadRequest(error) from error
        if entry is not None and prompt < self.engine.model_config.max_model_len:
            block_size = self.engine.cache_config.block_size
            self.counters.add(self.savings.of(entry, block_size))


_fronts: weakref.WeakValueDictionary[int, Front] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def front_of(model_config: Any) -> Front | None:
    """The front of a model's engine, None in its other processes."""
    engine = engine_of(model_config)
    if engine is None:
        return None
    with _lock:
        found = _fronts.get(id(engine))
        if found is None:
            _fronts[id(engine)] = found = Front(engine)
        return found


def features_of(made: Any) -> list[Any]:
    """The pictures of a processed prompt, as `PictureReader` reads them."""
    return [
        SimpleNamespace(
            data=made["mm_kwargs"][modality][index],
            modality=modality,
            identifier=made["mm_hashes"][modality][index],
            mm_position=place,
        )
        for modality, places in made["mm_placeholders"].items()
        for index, place in enumerate(places)
    ]


def forget_sent(made: Any, cache: Any) -> None:
    """Let a processor's cache forget the data of a prompt that will not reach the engine: it takes what
    it has seen for sent, and the next prompt with the same picture would go without."""
    if cache is not None:
        for feature in features_of(made):
            if feature.data is not None:
                cache.invalidate(feature.identifier)


@dataclass
class MadeUp(ProcessorInputs):
    """Inputs that vLLM measures memory and warms up with."""


class Checked:
    """What lightkv adds to a processor of vLLM."""

    def __init__(self, info: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(info, *args, **kwargs)
        self.front = front_of(info.ctx.model_config)

    def get_dummy_inputs(self, *args: Any, **kwargs: Any) -> MadeUp:
        made: Any = super().get_dummy_inputs(*args, **kwargs)  # type: ignore[misc]
        return MadeUp(**{field.name: getattr(made, field.name) for field in fields(made)})

    def apply(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        made = super().apply(inputs, *args, **kwargs)  # type: ignore[misc]
        if self.front is not None and not isinstance(inputs, MadeUp):
            try:
                self.front.look(made)
            except BadRequest:
                forget_sent(made, inputs.cache)
                raise
        return made


class LlavaProcessor(Checked, LlavaMultiModalProcessor):  # type: ignore[misc]
    """LLaVA-1.5."""


class LlavaNextProcessor(Checked, LlavaNextMultiModalProcessor):  # type: ignore[misc]
    """LLaVA-NeXT."""


class Qwen2VLProcessor(Checked, Qwen2VLMultiModalProcessor):  # type: ignore[misc]
    """Qwen2-VL."""


class Qwen25VLProcessor(Checked, Qwen2_5_VLMultiModalProcessor):  # type: ignore[misc]
    """Qwen2.5-VL."""


class Qwen3VLProcessor(Checked, Qwen3VLMultiModalProcessor):  # type: ignore[misc]
    """Qwen3-VL."""


class InternVLProcessor(Checked, InternS1MultiModalProcessor):  # type: ignore[misc]
    """InternVL."""
