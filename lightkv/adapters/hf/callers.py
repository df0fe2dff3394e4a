"""Who calls a pass: `generate`, and in which way. Its arguments alone do not tell.

Asked only of passes whose arguments leave it open, because looking at the callers takes a while.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from torch import nn

from lightkv.adapters.hf.contact import ASSISTED, GENERATE, cache_of
from lightkv.adapters.hf.inputs import carries_vision, refuse_full_length
from lightkv.core.errors import SessionError


def called_by(name: str, module: nn.Module) -> bool:
    """Whether a method of that name, of `module` or of a module around it, runs in this thread."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == name:
            owner: Any = frame.f_locals.get("self")
            if isinstance(owner, nn.Module) and any(part is module for part in owner.modules()):
                return True
        frame = frame.f_back
    return False


def read_call(
    arguments: dict[str, Any], module: nn.Module, spans_given: bool
) -> tuple[int, int | None]:
    """What a call of the whole model tells of its pass, checked.

    Returns:
        How many tokens at the end of a prompt are guesses that `generate` wants checked, and how many
        logits it wants for checking guesses anywhere, None in any other pass.

    Raises:
        SessionError: arguments of the uncompressed sequence, or `generate` without a cache.
    """
    refuse_full_length(arguments, spans_given)
    vision = carries_vision(arguments)
    if vision or spans_given:
        refuse_uncached(arguments, module)
    wanted = arguments.get("logits_to_keep")
    # Assisted decoding feeds guesses with the prompt or by themselves. They show in the logits that it
    # asks for, one for each guess and one more; but any other caller may wish for as many.
    if not isinstance(wanted, int) or wanted <= 1 or not called_by(ASSISTED, module):
        return 0, None
    cache = cache_of(arguments)
    # Where spans are given, they tell of what comes on an empty cache.
    prompt = vision or (spans_given and not (cache and cache.get_seq_length()))
    return (wanted - 1 if prompt else 0), wanted


def refuse_uncached(arguments: dict[str, Any], module: nn.Module) -> None:
    """Refuse a pass with images in which `generate` keeps no cache.

    Each of its steps would feed the whole sequence again, and compress it anew with the generated
    tokens as part of the prompt: other vision tokens might be kept at each step.

    Raises:
        SessionError: such a pass. A single pass without a cache is fine.
    """
    if arguments.get("use_cache") is False and called_by(GENERATE, module):
        raise SessionError(
            "without a cache `generate` feeds the whole sequence at each step, so each would be "
            "compressed anew, with the generated tokens as part of the prompt",
            field="use_cache",
            value=False,
            remedy="leave use_cache out (a cache is what compression makes smaller), or call the model "
            "itself for single passes without one",
        )
