"""Whether a model has positions for a prompt: beyond those that it was made for it answers at random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightkv.core.errors import ModelError


def check_length(inputs: Any, model: Any) -> None:
    """Refuse a prompt with more tokens than the model has positions.

    Tokens are counted, as serving engines do: where positions are multimodal, tokens of one picture
    share some, and a model was still not made for more tokens than that. Models whose rotary positions
    are scaled say in many ways how far they reach, and are left alone.

    Args:
        inputs: with `input_ids` `[B, T]`, padded.
        model: that they are for.

    Raises:
        ModelError: too many.
    """
    length, most = int(inputs["input_ids"].shape[1]), most_positions(model.config)
    if most is not None and length > most:
        raise ModelError(
            f"the prompt has {length} tokens, pictures and clips included, and the model has positions "
            f"for {most}",
            field="prompt",
            value=length,
            remedy="give fewer or smaller frames or pictures, or a model with more positions",
        )


def most_positions(config: Any) -> int | None:
    """Positions that a model of a transformers config was made for; None where it does not say."""
    try:
        text = config.get_text_config()
    except (AttributeError, ValueError):  # code of the transformers 4 era; several decoders
        return None
    most = getattr(text, "max_position_embeddings", None)
    if not isinstance(most, int) or _scaled(getattr(text, "rope_parameters", None)):
        return None
    return most


def _scaled(rope: Any) -> bool:
    """Whether rotary positions are scaled; of each kind of layer, where they differ in that."""
    if not isinstance(rope, Mapping):
        return False
    if any(isinstance(value, Mapping) for value in rope.values()):
        return any(_scaled(value) for value in rope.values())
    return rope.get("rope_type", "default") != "default"
