"""Requests with pictures, checked by the plan before the engine gets them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightkv.core.errors import ConfigError
from lightkv.integrations.vllm.plan import Entry, ServingPlan
from lightkv.integrations.vllm.requests import Requests


class RequestChecks:
    """The entry of a request, or why it cannot be served.

    Args:
        config: the model's config, of transformers.
        plan: of the engine.
    """

    def __init__(self, config: Any, plan: ServingPlan) -> None:
        self._requests = Requests(config, plan)
        self.pictures = self._requests.pictures

    def entry(self, features: Sequence[Any], prompt: int, most: int) -> Entry | None:
        """What is known ahead of a request, None where it has no pictures.

        Args:
            features: of vLLM, in any order.
            prompt: tokens of the prompt.
            most: tokens that a step computes.

        Raises:
            LightKVError: as `Requests.look`.
            ConfigError: a piece that no step computes.
        """
        entry = self._requests.look(features, prompt)
        if entry is not None and entry.piece > most:
            raise ConfigError(
                f"{entry.piece} tokens of the prompt have to be computed in one step: those up to its "
                "last picture, and text that a scorer reads. A step of this engine computes fewer",
                field="max_num_batched_tokens",
                value=most,
                remedy=f"send fewer or smaller pictures or less text, or serve with "
                f"--max-num-batched-tokens {entry.piece} or more",
            )
        return entry
