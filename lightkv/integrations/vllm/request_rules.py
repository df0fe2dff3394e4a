"""What a request may not ask for, said where vLLM checks its parameters: an HTTP 400.

vLLM has one place where a plugin sees the parameters of each request before the engine does: custom
logits processors. This one processes nothing. Either model runner can build it.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.sample.logits_processor.interface import LogitsProcessor as FirstRunner
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as SecondRunner

from lightkv.core.errors import ConfigError
from lightkv.integrations.vllm.bad_request import BadRequest

REFUSED = {
    "prompt_logprobs": (
        "prompt tokens that were dropped or merged have no log-probabilities",
        "leave it out; logprobs of generated tokens work",
    ),
    "prompt_logprob_token_ids": (
        "prompt tokens that were dropped or merged have no log-probabilities",
        "leave it out; logprobs of generated tokens work",
    ),
}
"""Parameter → why it is refused, and what works."""
REFUSED_EXTRA = {
    "kv_transfer_params": (
        "blocks of compressed layers are not moved between engines",
        "send the prompt itself",
    ),
    "ec_transfer_params": (
        "the grid of a picture that another process encoded is not known here",
        "send the picture itself",
    ),
}
"""The same for entries of `extra_args`."""


def check_params(params: Any) -> None:
    """Refuse what cannot work.

    Args:
        params: vLLM's `SamplingParams`.

    Raises:
        BadRequest: the first parameter that cannot.
    """
    extra = params.extra_args or {}
    for given, refused in ((_known(params), REFUSED), (extra, REFUSED_EXTRA)):
        for name, (what, remedy) in refused.items():
            if given.get(name) is not None:
                raise BadRequest(ConfigError(what, field=name, remedy=remedy))


def _known(params: Any) -> dict[str, Any]:
    """The parameters that have a rule; not every release knows all of them."""
    return {name: getattr(params, name, None) for name in REFUSED}


class RequestRules(FirstRunner, SecondRunner):  # type: ignore[misc]
    """Processes no logits."""

    def __init__(self, vllm_config: Any, *_: Any) -> None:
        pass

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse a request's parameters.

        Raises:
            BadRequest: what cannot work.
        """
        try:
            check_params(sampling_params)
        except BadRequest:
            from lightkv.integrations.vllm.front import take_back

            take_back()
            raise

    def is_argmax_invariant(self) -> bool:
        """Greedy steps of the first runner pass it by."""
        return True

    def update_state(self, batch_update: Any) -> None:
        """Nothing to keep."""

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """No request needs the logits of the second runner processed."""
        return False

    def apply(self, logits: Any, *_: Any) -> Any:
        """The logits as they are."""
        return logits
