"""lightkv inside vLLM: compression between decoder layers while the engine prefills.

vLLM finds `register` through the entry-point group `vllm.general_plugins`. Nothing here imports vLLM
before vLLM asks.
"""

from __future__ import annotations

from lightkv.integrations.vllm.engine_args import engine_args

__all__ = ["engine_args", "register"]


def register() -> None:
    """Tell vLLM of the model classes that compress, under names of their own, and of the hook that sees
    who asks for them."""
    from vllm import ModelRegistry

    from lightkv.integrations.vllm.families import FAMILIES
    from lightkv.integrations.vllm.hook import register_hooks

    for name in (family.model for family in FAMILIES):
        ModelRegistry.register_model(name, f"lightkv.integrations.vllm.models:{name}")
    register_hooks(ModelRegistry.get_supported_archs())
