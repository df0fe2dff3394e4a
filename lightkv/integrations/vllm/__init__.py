"""lightkv inside vLLM: compression between decoder layers while the engine prefills.

vLLM finds `register` through the entry-point group `vllm.general_plugins`. Nothing here imports vLLM
before vLLM asks.
"""

from __future__ import annotations

__all__ = ["register"]


def register() -> None:
    """Tell vLLM of the model classes that compress, under names of their own."""
