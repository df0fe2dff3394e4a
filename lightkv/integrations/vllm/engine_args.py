"""What vLLM has to be told, as arguments of `LLM(…)`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightkv.integrations.vllm.contact import check_release
from lightkv.integrations.vllm.families import family_of
from lightkv.integrations.vllm.options import KEY, read_options


def engine_args(model: str, pipeline: Any = "lightkv", **changes: Any) -> dict[str, Any]:
    """Arguments of `vllm.LLM` for a model that compresses.

    Args:
        model: folder or name of a checkpoint.
        pipeline: a preset's name, the path of a YAML file, or plain data.
        changes: as `lightkv.compress` takes them: `retention`, `schedule`, ….

    Raises:
        ConfigError: options that cannot be read.
        ModelError: a checkpoint without a config, or of a family that is not mapped.
        CompatibilityError: a release of vLLM that lightkv was not tested with.
    """
    from lightkv.checkpoints.describe import read_config

    check_release()
    config = {KEY: {"pipeline": pipeline, **changes}}
    read_options(config)
    folder = Path(model)
    family_of(read_config(folder if folder.is_dir() else str(model)))
    # The classes that do the work enter by themselves (hook.py).
    return {"model": str(model), "additional_config": config, "enable_prefix_caching": False}
