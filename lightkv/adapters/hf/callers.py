"""Who calls a pass: `generate`, and in which way. Its arguments alone do not tell.

Asked only of passes whose arguments leave it open, because looking at the callers takes a while.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from torch import nn

from lightkv.adapters.hf.contact import ASSISTED, cache_of
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


def read_drafts(
    arguments: dict[str, Any], module: nn.Module, *, vision: bool, spans_given: bool
) -> tuple[int, int | None]:
    """How many guesses a call of the whole model brings (assisted decoding).

    Args:
        arguments: of the call.
        module: the model.
        vision: whether the call brings images.
        spans_given: whether the caller said where they are.

    Returns:
        How many tokens at the end of a prompt are guesses that `generate` wants checked, and how many
        logits it wants for checking guesses anywhere, None in any other pass.

    Raises:
        SessionError: guesses came with a prompt and nobody says how many.
    """
    wanted = arguments.get("logits_to_keep")
    if wanted is None and (vision or spans_given) and called_by(ASSISTED, module):
        raise SessionError(
            "the forward of this model takes no logits_to_keep, which tells the drafts from the prompt: "
            "they would be scored as a part of it",
            field="logits_to_keep",
            remedy="generate without assistant_model and prompt_lookup_num_tokens",
        )
    # Assisted decoding feeds guesses with the prompt or by themselves. They show in the logits that it
    # asks for, one for each guess and one more; but any other caller may wish for as many.
    if not isinstance(wanted, int) or wanted <= 1 or not called_by(ASSISTED, module):
        return 0, None
    cache = cache_of(arguments)
    # Where spans are given, they tell of what comes on an empty cache.
    prompt = vision or (spans_given and not (cache and cache.get_seq_length()))
    return (wanted - 1 if prompt else 0), wanted
