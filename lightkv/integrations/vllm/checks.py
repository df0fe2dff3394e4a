"""Requests with pictures, checked by the plan before the engine gets them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightkv.core.errors import ConfigError
from lightkv.integrations.vllm.pictures import PictureReader
from lightkv.integrations.vllm.plan import Entry, ServingPlan


class RequestChecks:
    """The entry of a request, or why it cannot be served.

    Args:
        config: the model's config, of transformers.
        plan: of the engine.
    """

    def __init__(self, config: Any, plan: ServingPlan) -> None:
        self.pictures = PictureReader(config)
        self.plan = plan

    def entry(self, features: Sequence[Any], prompt: int, most: int) -> Entry | None:
        """What is known ahead of a request, None where it has no pictures.

        Args:
            features: of vLLM, in any order.
            prompt: tokens of the prompt.
            most: tokens that a step computes.

        Raises:
            ModelError: a kind of picture that is not mapped, or a picture without its grid.
            LayoutError: placeholders that do not match a picture.
            ConfigError: a grid that the windows of a stage do not fit, or a piece that no step computes.
        """
        if not features:
            return None
        spans = self.pictures.spans(features)
        entry = self.plan.entry(spans, self.pictures.sample(spans), prompt)
        if entry.piece > most:
            raise ConfigError(
                f"{entry.piece} tokens of the prompt have to be computed in one step: those up to its "
                "last picture, and text that a scorer reads. A step of this engine computes fewer",
                field="max_num_batched_tokens",
                value=most,
                remedy=f"send fewer or smaller pictures or less text, or serve with "
                f"--max-num-batched-tokens {entry.piece} or more",
            )
        return entry
