"""In place of the model classes, under a release of vLLM that lightkv was not tested with.

vLLM loads a class when a model names it, so whoever asks for none of ours never comes here.
"""

from __future__ import annotations

from typing import Any

from lightkv.integrations.vllm.contact import check_release


def __getattr__(name: str) -> Any:
    if name.startswith("LightKV"):
        check_release()
    raise AttributeError(name)
