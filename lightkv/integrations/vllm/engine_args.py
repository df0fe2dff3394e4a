"""What vLLM has to be told, as arguments of `LLM(…)`."""

from __future__ import annotations

from typing import Any

from lightkv.core.errors import ModelError
from lightkv.integrations.vllm.contact import check_release
from lightkv.integrations.vllm.families import FAMILIES
from lightkv.integrations.vllm.options import KEY, read_options

CLASSES = {family.architecture: family.model for family in FAMILIES}
"""Architecture of a checkpoint → our class for it."""


def engine_args(model: str, pipeline: Any = "lightkv", **changes: Any) -> dict[str, Any]:
    """Arguments of `vllm.LLM` for a model that compresses.

    Args:
        model: folder or name of a checkpoint.
        pipeline: a preset's name, the path of a YAML file, or plain data.
        changes: as `lightkv.compress` takes them: `retention`, `schedule`, ….

    Raises:
        ConfigError: options that cannot be read.
        ModelError: a checkpoint whose architecture is not mapped.
        CompatibilityError: a release of vLLM that lightkv was not tested with.
    """
    check_release()
    config = {KEY: {"pipeline": pipeline, **changes}}
    read_options(config)
    class_for(str(model))
    # The classes that do the work enter by themselves (hook.py).
    return {"model": str(model), "additional_config": config, "enable_prefix_caching": False}


def class_for(model: str) -> str:
    """Our class for a checkpoint, by the architecture that its config names."""
    from transformers import AutoConfig

    found = AutoConfig.from_pretrained(model).architectures or []
    for architecture in found:
        if architecture in CLASSES:
            return CLASSES[architecture]
        if architecture in CLASSES.values():
            return str(architecture)
    raise ModelError(
        "vLLM's model of this architecture is not mapped",
        field="model",
        value=", ".join(found),
        remedy=f"mapped are: {', '.join(CLASSES)}",
    )
