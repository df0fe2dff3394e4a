"""A request that cannot be served: HTTP 400 from a server, a `ValueError` from `LLM.generate`."""

from __future__ import annotations

from vllm.exceptions import VLLMValidationError

from lightkv.core.errors import LightKVError


class BadRequest(VLLMValidationError, ValueError):  # type: ignore[misc]
    """An error of lightkv that belongs to one request.

    Args:
        error: what is wrong; its text is the answer.
    """

    def __init__(self, error: LightKVError) -> None:
        self.error = error
        super().__init__(str(error))
