"""Model families, and what maps them onto the engine.

`families/` has one file for each family. They are registered here, through the hook that a stranger's
plugin uses. Of two that serve a model the later one is asked first.
"""

from __future__ import annotations

from collections.abc import Callable

from lightkv.adapters.families import (
    eve,
    fuyu,
    gemma3,
    generic,
    glm4v,
    idefics3,
    internvl,
    internvl_chat,
    llava,
    llava_next,
    llava_next_video,
    llava_onevision,
    mistral3,
    paligemma,
    qwen3_vl,
    qwen_vl,
    video_llava,
)
from lightkv.core.hookspecs import hookimpl
from lightkv.core.plugins import defined_in
from lightkv.core.run.adapter import Adapter

FAMILIES = (
    generic,
    llava,
    llava_next,
    qwen_vl,
    internvl,
    internvl_chat,
    eve,
    idefics3,
    mistral3,
    glm4v,
    fuyu,
    paligemma,
    video_llava,
    llava_next_video,
    llava_onevision,
    gemma3,
    qwen3_vl,
)


@hookimpl
def lightkv_adapters(register: Callable[[Adapter], None]) -> None:
    for module in FAMILIES:
        for adapter in defined_in(module, Adapter):
            register(adapter())
