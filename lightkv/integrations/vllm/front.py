"""The process that requests come to: it checks them, counts them, and takes back what it refuses."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from types import SimpleNamespace
from typing import Any

from lightkv.core.errors import LightKVError
from lightkv.integrations.vllm.bad_request import BadRequest
from lightkv.integrations.vllm.checks import RequestChecks
from lightkv.integrations.vllm.configure import engine_of
from lightkv.integrations.vllm.counters import Counters
from lightkv.integrations.vllm.savings import Savings
from lightkv.integrations.vllm.setup import plan_of

RECENT = 1024
"""Pictures that may be on their way to the engine."""


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
        self._recent: deque[tuple[Any, str]] = deque(maxlen=RECENT)

    def look(self, made: Any, cache: Any) -> None:
        """Check what a processor made of a prompt with pictures, and count it.

        Args:
            made: the processor's result.
            cache: of processed pictures; None where there is none.

        Raises:
            BadRequest: the engine could not serve it.
        """
        features = features_of(made)
        fresh = [feature.identifier for feature in features if feature.data is not None]
        try:
            self._check(made, features)
        except BadRequest:
            _forget(cache, fresh)
            raise
        if cache is not None:
            self._recent.extend((cache, identifier) for identifier in fresh)

    def take_back(self) -> None:
        """Have the data of recent pictures sent again.

        A processor's cache takes what it has seen for sent, so the picture of a request that is refused
        behind it would never reach the engine. Which of them that is, nobody says here.
        """
        while self._recent:
            cache, identifier = self._recent.popleft()
            _forget(cache, [identifier])

    def _check(self, made: Any, features: list[Any]) -> None:
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


def take_back() -> None:
    """The same for all engines of this process."""
    for front in list(_fronts.values()):
        front.take_back()


def _forget(cache: Any, identifiers: list[str]) -> None:
    for identifier in identifiers:
        if cache is not None:
            cache.invalidate(identifier)
