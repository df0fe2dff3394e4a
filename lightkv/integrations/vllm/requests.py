"""From a request to what is known of it: its pictures, found among its multimodal features."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightkv.adapters.pictures.placing import Picture, Pictures, PictureView, layout_of
from lightkv.integrations.vllm.plan import Entry, ServingPlan


class Requests:
    """Entries of requests, made once for each."""

    def __init__(self, vllm_config: Any, plan: ServingPlan) -> None:
        self._config = vllm_config.model_config.hf_config
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
        """The entry of a prompt by its features."""
        if not features:
            return None
        side = self._config.vision_config.image_size // self._config.vision_config.patch_size
        spans = tuple((f.mm_position.offset, (1, side, side)) for f in features)
        here = np.zeros((1, prompt), dtype=bool)
        for start, _ in spans:
            here[0, start : start + side * side] = True
        picture = Picture((PictureView.plain(1, side, side),))
        layout = layout_of([Pictures("image", here, [picture] * len(spans))], prompt, [0])
        return self._plan.entry(spans, layout.samples[0], prompt)
