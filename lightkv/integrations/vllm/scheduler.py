"""The scheduler: it knows ahead what each segment will hold of a request, and keeps pieces whole."""

from __future__ import annotations

from typing import Any

from vllm.logger import init_logger
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason

from lightkv.core.errors import CompatibilityError, ConfigError
from lightkv.integrations.vllm import contact
from lightkv.integrations.vllm.announce import announcement
from lightkv.integrations.vllm.cache import SegmentManager, SegmentSpec
from lightkv.integrations.vllm.checks import RequestChecks
from lightkv.integrations.vllm.configure import check_complete
from lightkv.integrations.vllm.plan import Entry
from lightkv.integrations.vllm.request_rules import check_params
from lightkv.integrations.vllm.savings import Savings
from lightkv.integrations.vllm.setup import plan_of

logger = init_logger("vllm.lightkv")


class Counting:
    """What lightkv adds to a scheduler of vLLM."""

    def __init__(self, vllm_config: Any, kv_cache_config: Any, *args: Any, **kwargs: Any) -> None:
        contact.check(contact.SCHEDULER)
        check_complete(vllm_config)
        super().__init__(vllm_config, kv_cache_config, *args, **kwargs)
        self.plan = plan_of(vllm_config)
        self.entries: dict[str, Entry] = {}
        self.refused: list[Any] = []
        self._checks = RequestChecks(vllm_config.model_config.hf_config, self.plan)
        _check_plans(self.plan.digest, kv_cache_config)
        for manager in self.kv_cache_manager.coordinator.single_type_managers:  # type: ignore[attr-defined]
            if isinstance(manager, SegmentManager):
                manager.entries = self.entries
        pages, block_size = kv_cache_config.num_blocks, vllm_config.cache_config.block_size
        for line in announcement(self.plan, Savings(self.plan).grouping, pages, block_size):
            logger.info(line)

    def add_request(self, request: Any) -> None:
        """Queue a request; one that cannot be served ends with an error in the next step.

        The process that it came to has checked it before (`processors.py`), so this is for requests
        that came another way. An error here would end the engine.
        """
        try:
            entry = self._entry(request)
        except Exception as error:  # noqa: BLE001 - whatever it is, other requests go on
            logger.error("request %s cannot be served: %s", request.request_id, error)
            self.refused.append(request)
            return
        if entry is not None:
            self.entries[request.request_id] = entry
        super().add_request(request)  # type: ignore[misc]

    def _entry(self, request: Any) -> Entry | None:
        most = self.max_num_scheduled_tokens  # type: ignore[attr-defined]
        features = request.mm_features
        entry = self._checks.entry(features, request.num_prompt_tokens, most)
        if entry is not None:
            room = self.encoder_cache_manager.cache_size  # type: ignore[attr-defined]
            _check_request(request, entry, room)
        return entry

    def has_requests(self) -> bool:
        """Whether a step has anything to do: also to end what was refused."""
        return bool(self.refused) or super().has_requests()  # type: ignore[misc]

    def update_from_output(self, *args: Any, **kwargs: Any) -> dict[int, EngineCoreOutputs]:
        outputs: dict[int, EngineCoreOutputs] = super().update_from_output(*args, **kwargs)  # type: ignore[misc]
        refused, self.refused = self.refused, []
        for request in refused:
            of_client = outputs.setdefault(request.client_index, EngineCoreOutputs())
            ended = EngineCoreOutput(
                request.request_id,
                new_token_ids=[],
                finish_reason=FinishReason.ERROR,
                trace_headers=request.trace_headers,
            )
            # Not in place: an empty list may be the default that all share.
            of_client.outputs = [*of_client.outputs, ended]
            if self.finished_req_ids_dict is not None:  # type: ignore[attr-defined]
                gone = of_client.finished_requests or set()
                of_client.finished_requests = {*gone, request.request_id}
        return outputs

    def _free_blocks(self, request: Any) -> None:
        super()._free_blocks(request)  # type: ignore[misc]
        self.entries.pop(request.request_id, None)

    def _try_schedule_encoder_inputs(
        self, request: Any, num_computed_tokens: int, num_new_tokens: int, *args: Any, **kwargs: Any
    ) -> Any:
        """Leave a request for a later step that could compute a part of its piece only.

        The step may have no tokens left for it, or the encoder no room for all of its pictures.
        """
        entry = self.entries.get(request.request_id)
        open_piece = entry is not None and num_computed_tokens < entry.piece
        if open_piece and num_computed_tokens + num_new_tokens < entry.piece:  # type: ignore[union-attr]
            num_new_tokens = 0
        found = super()._try_schedule_encoder_inputs(  # type: ignore[misc]
            request, num_computed_tokens, num_new_tokens, *args, **kwargs
        )
        if open_piece and num_computed_tokens + found[1] < entry.piece:  # type: ignore[union-attr]
            return [], 0, _encoder_budget(*args, **kwargs), [], []
        return found


class CountingScheduler(Counting, Scheduler):
    """vLLM's scheduler, counting by segments."""


class CountingAsyncScheduler(Counting, AsyncScheduler):
    """The same for asynchronous scheduling."""


def scheduler(vllm_config: Any, *args: Any, **kwargs: Any) -> Scheduler:
    """The scheduler of an engine: what `--scheduler-cls` names."""
    asynchronous = vllm_config.scheduler_config.async_scheduling
    kind = CountingAsyncScheduler if asynchronous else CountingScheduler
    return kind(vllm_config, *args, **kwargs)


def _encoder_budget(encoder_compute_budget: int, **_: Any) -> int:
    return encoder_compute_budget


def _check_request(request: Any, entry: Entry, room: int) -> None:
    """Refuse what a prompt with pictures cannot be asked for.

    Args:
        request: vLLM's.
        entry: what is known of it.
        room: embeddings that the encoder's cache holds.

    Raises:
        ConfigError: what it is.
        BadRequest: a parameter that the process it came to refuses too.
    """
    params = request.sampling_params
    if params is None:
        raise ConfigError("pooling takes rows of dropped tokens, which are zero", field="params")
    check_params(params)
    if request.prompt_embeds is not None:
        raise ConfigError(
            "nobody says where pictures lie among given embeddings", field="prompt_embeds"
        )
    if request.resumable:
        raise ConfigError(
            "a prompt with pictures that grows would compress anew", field="resumable"
        )
    if entry.vision > room:
        raise ConfigError(
            f"the pictures of a prompt are encoded in one step, and the encoder's cache holds {room} "
            "tokens",
            field="multi_modal_data",
            value=entry.vision,
            remedy="send fewer or smaller pictures, or raise --max-num-batched-tokens",
        )


def _check_plans(digest: str, kv_cache_config: Any) -> None:
    """Refuse to schedule for workers that count otherwise."""
    specs = [group.kv_cache_spec for group in kv_cache_config.kv_cache_groups]
    theirs = {spec.plan for spec in specs if isinstance(spec, SegmentSpec)}
    if theirs - {digest}:
        raise CompatibilityError(
            "scheduler and workers made different plans of the same options",
            field="additional_config",
            value=sorted(theirs),
            remedy="install the same version of lightkv, with the same plugins, on all machines",
        )
