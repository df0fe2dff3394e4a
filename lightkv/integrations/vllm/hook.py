"""Where vLLM lets a model's architecture look at the engine's configuration, before anything is built.

vLLM asks `MODELS_CONFIG_MAP[architecture]` in whatever process makes the configuration. Whoever asked
for lightkv gets the classes that it needs, or an error that says why not; for anybody else nothing
changes. Only names without an entry get one, and nothing heavy is imported before somebody asks.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from lightkv.integrations.vllm import contact
from lightkv.integrations.vllm.families import FAMILIES
from lightkv.integrations.vllm.options import read_options


class EngineHook:
    """What vLLM calls; duck-typed, as its base class does nothing."""

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Complete or refuse an engine that asks for lightkv.

        Raises:
            ConfigError: options or settings that cannot work, classes that are not those of lightkv.
            ModelError: a model that is not mapped.
            CompatibilityError: a vLLM that is not the one that lightkv was tested with.
        """
        named = vllm_config.model_config.hf_config.architectures or ()
        ours = any(family.model in named for family in FAMILIES)
        if ours or read_options(vllm_config.additional_config) is not None:
            contact.check(contact.FRONT)
            from lightkv.integrations.vllm.configure import prepare

            prepare(vllm_config)

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """The model's part comes too early: nothing is known of the engine."""


def register_hooks(architectures: Collection[str]) -> None:
    """Enter the hook for each architecture that vLLM has none for.

    Args:
        architectures: names that vLLM knows, those of lightkv included.
    """
    try:
        from vllm.model_executor.models.config import MODELS_CONFIG_MAP
    except ImportError:
        # Nobody would ask lightkv, so this is the only place to say it.
        logging.getLogger("vllm.lightkv").error(
            "lightkv cannot serve this release of vLLM, which shows no model its configuration: "
            "'lightkv' in additional_config does nothing"
        )
        return
    for architecture in architectures:
        MODELS_CONFIG_MAP.setdefault(architecture, EngineHook)
