"""From a request to what is known of it: its pictures, found among its multimodal features."""

from __future__ import annotations

from typing import Any

from lightkv.integrations.vllm.pictures import PictureReader
from lightkv.integrations.vllm.plan import Entry, ServingPlan


class Requests:
    """Entries of requests, made once for each.

    Args:
        config: the model's config, of transformers.
        plan: of the engine.
    """

    def __init__(self, config: Any, plan: ServingPlan) -> None:
        self.pictures = PictureReader(config)
        self._plan = plan
        self._of: dict[str, Entry | None] = {}

    def entry(self, request_id: str, features: Any, prompt: int) -> Entry | None:
        """The entry of a request, None where its prompt holds no vision tokens."""
        if request_id not in self._of:
            self._of[request_id] = self.look(features, prompt)
        return self._of[request_id]

    def known(self, request_id: str) -> Entry | None:
        """The entry of a request that was asked for before; None for any other."""
        return self._of.get(request_id)

    def forget(self, request_ids: Any) -> None:
        """Drop what is known of requests that are gone."""
        for request_id in request_ids:
            self._of.pop(request_id, None)

    def look(self, features: Any, prompt: int) -> Entry | None:
        """The entry of a prompt by its features.

        Raises:
            ModelError: a kind of picture that is not mapped, or a picture without its grid.
            LayoutError: placeholders that do not match a picture.
            ConfigError: a grid that the windows of a stage do not fit.
        """
        if not features:
            return None
        spans = self.pictures.spans(features)
        return self._plan.entry(spans, self.pictures.sample(spans), prompt)
