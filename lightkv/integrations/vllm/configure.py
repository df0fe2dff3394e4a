"""The configuration of an engine that compresses: completed where it is made, checked where it is used.

`hook.py` says who calls `prepare`: the process of `LLM`, and that of each API server. Scheduler, worker
and model get the configuration afterwards, and call `check_complete`.
"""

from __future__ import annotations

import weakref
from typing import Any

from lightkv.core.errors import CompatibilityError, ConfigError
from lightkv.integrations.vllm.families import family_of
from lightkv.integrations.vllm.options import KEY
from lightkv.integrations.vllm.setup import plan_of

HOME = "lightkv.integrations.vllm"
SCHEDULER = f"{HOME}.scheduler.scheduler"
WORKER = f"{HOME}.worker.Worker"
RULES = f"{HOME}.request_rules:RequestRules"
MARK = "lightkv_checks_requests"
"""Attribute of the model's config: somebody looks at requests before they reach the scheduler."""

_ENGINES: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
"""Engines that were configured in this process, by the identity of their model's configuration: vLLM
gives a multimodal processor the latter only."""


def prepare(vllm_config: Any) -> None:
    """Complete the configuration of an engine that is to compress.

    Raises:
        ConfigError: options or settings that cannot work, classes that are not those of lightkv.
        ModelError: a model that is not mapped.
    """
    model = vllm_config.model_config
    family = family_of(model.hf_config)
    plan_of(vllm_config)
    if _architectures(model) != [family.model]:
        model.hf_config.architectures = [family.model]
        model.model_arch_config = model.get_model_arch_config()  # vLLM's own excerpt of it
    scheduler, parallel = vllm_config.scheduler_config, vllm_config.parallel_config
    if scheduler.scheduler_cls is None:
        scheduler.scheduler_cls = SCHEDULER
    if parallel.worker_cls == "auto":
        parallel.worker_cls = WORKER
    rules = list(model.logits_processors or ())
    if RULES not in rules:
        model.logits_processors = [*rules, RULES]
    setattr(model.hf_config, MARK, True)
    check_complete(vllm_config)
    _ENGINES[id(model)] = vllm_config


def engine_of(model_config: Any) -> Any:
    """The engine that was configured here with this model; None in its other processes."""
    found = _ENGINES.get(id(model_config))
    return found if found is not None and found.model_config is model_config else None


def check_complete(vllm_config: Any) -> None:
    """Refuse an engine of which only a part is lightkv's: whoever of ours is built asks this first.

    Raises:
        ConfigError: which flag is missing or names another class.
        CompatibilityError: vLLM did not ask the hook, so requests would not be checked.
    """
    model = vllm_config.model_config
    wanted = family_of(model.hf_config).model
    rows = (
        (
            "--hf-overrides",
            _architectures(model),
            wanted in _architectures(model),
            f'add --hf-overrides \'{{"architectures": ["{wanted}"]}}\'',
        ),
        (
            "--scheduler-cls",
            vllm_config.scheduler_config.scheduler_cls,
            vllm_config.scheduler_config.scheduler_cls == SCHEDULER,
            f"add --scheduler-cls {SCHEDULER}",
        ),
        (
            "--worker-cls",
            vllm_config.parallel_config.worker_cls,
            vllm_config.parallel_config.worker_cls == WORKER,
            f"add --worker-cls {WORKER}",
        ),
        (
            "--logits-processors",
            model.logits_processors or [],
            RULES in (model.logits_processors or ()),
            f"add --logits-processors {RULES}",
        ),
    )
    for flag, value, right, remedy in rows:
        if not right:
            raise ConfigError(
                "only a part of the engine is lightkv's, and compression needs all of it",
                field=flag,
                value=value,
                remedy=f"leave it out, or {remedy}",
            )
    if not getattr(model.hf_config, MARK, False):
        raise CompatibilityError(
            "vLLM did not let lightkv look at the engine's configuration, so requests would not be "
            "checked",
            field=f"additional_config.{KEY}",
            remedy="install a release of vLLM that lightkv was tested with, and let VLLM_PLUGINS name "
            "lightkv",
        )


def _architectures(model_config: Any) -> list[str]:
    """Where vLLM looks up a model's class by."""
    return list(model_config.hf_config.architectures or ())
