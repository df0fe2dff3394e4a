"""Where a model that no family knows keeps its parts, found by the names that most classes share.

Nothing is guessed that cannot be checked: what is not found, or not of a known kind, is a `Refusal`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from lightkv.adapters.hf import contact
from lightkv.core.errors import CompatibilityError
from lightkv.core.run.refusal import Refusal

PATHS = ("model.language_model", "model.text_model", "language_model", "text_model", "model", "")
"""Where decoders stand in multimodal models, if `get_decoder` does not say."""
INNER = ("model", "decoder")
"""What a decoder with a head calls the decoder."""
CROSS = ("cross_attn", "crossattention", "cross_attention", "encoder_attn", "gated_cross_attn")
"""What layers call attention to something outside their sequence."""
TOKENS = ("token_id", "token_index", "patch_id")
"""How config fields of placeholder ids end; they begin with the modality."""
BEHIND = "write an adapter that says where they are (docs/writing-an-adapter.md)"
SPANS = "adapter='generic' with layout=VisionLayout.from_spans(…)"


def find_decoder(model: nn.Module) -> nn.Module | None:
    """The module with the decoder layers, None where none is found."""
    for start in _starts(model):
        for module in _inward(start):
            if isinstance(getattr(module, "layers", None), nn.ModuleList):
                return module
    return None


def _starts(model: nn.Module) -> Iterator[nn.Module]:
    finder = getattr(model, "get_decoder", None)
    found = finder() if callable(finder) else None
    if isinstance(found, nn.Module):
        yield found
    for path in PATHS:
        module: Any = model
        for name in path.split(".") if path else ():
            module = getattr(module, name, None)
        if isinstance(module, nn.Module):
            yield module


def _inward(module: nn.Module) -> Iterator[nn.Module]:
    yield module
    for name in INNER:
        inner = getattr(module, name, None)
        if isinstance(inner, nn.Module):
            yield inner


def find_inputs(model: nn.Module) -> nn.Module | None:
    """The module whose forward takes ids and pixels, the innermost; None where none does."""
    inner = getattr(model, "model", None)
    for module in (inner, model):
        if isinstance(module, nn.Module) and _takes_inputs(module):
            return module
    return None


def _takes_inputs(module: nn.Module) -> bool:
    try:
        contact.check_inputs(module)
    except CompatibilityError:
        return False
    return True


def placeholder_ids(config: Any) -> dict[str, tuple[str, int]]:
    """Modality → the config field of its placeholder id, and the id; each id once."""
    found: dict[str, tuple[str, int]] = {}
    for modality in contact.PIXELS:
        for ending in TOKENS:
            field = f"{modality}_{ending}"
            value = getattr(config, field, None)
            if isinstance(value, int) and value not in {known for _, known in found.values()}:
                found.setdefault(modality, (field, value))
    return found


def is_multimodal(config: Any) -> bool:
    """Whether a config of transformers says that its model takes more than text."""
    if not callable(getattr(config, "get_text_config", None)):
        return False
    parts = ("vision_config", "audio_config", "encoder_config")
    return bool(placeholder_ids(config)) or any(
        getattr(config, part, None) is not None for part in parts
    )


def misfit(model: nn.Module) -> Refusal | None:
    """Why a multimodal model without a family cannot be compressed; None where all parts are found."""
    config: Any = getattr(model, "config", None)
    if not callable(getattr(config, "get_text_config", None)):
        return Refusal("it has no config of transformers", BEHIND)
    if getattr(config, "is_encoder_decoder", False):
        return Refusal(
            "it is an encoder-decoder: its decoder reads the picture through cross-attention",
            "run it without lightkv; there is no prefill over vision tokens to shorten",
        )
    decoder = find_decoder(model)
    if decoder is None:
        return Refusal("no decoder with a list called `layers` was found in it", BEHIND)
    for layer in decoder.layers:  # type: ignore[union-attr]
        crossing = next((name for name in CROSS if hasattr(layer, name)), None)
        if crossing is not None:
            return Refusal(
                f"its decoder reads the picture through cross-attention ({crossing})",
                "run it without lightkv; no vision token stands in its sequence",
            )
    if not placeholder_ids(config):
        return Refusal(
            "its config names no id of placeholders (image_token_id, audio_token_id, …), so nobody "
            "can tell which tokens show something",
            f"{SPANS}, or {BEHIND}",
        )
    if find_inputs(model) is None:
        known = ", ".join(contact.PIXELS.values())
        return Refusal(
            f"no forward of it takes ids and pixels under names that are known ({known})",
            f"{SPANS}, or {BEHIND}",
        )
    return _sees_ahead(config)


def _sees_ahead(config: Any) -> Refusal | None:
    text = config.get_text_config()
    for one in (config, text):
        value = getattr(one, "use_bidirectional_attention", None)
        if value not in (None, False):
            return Refusal(
                "some of its tokens see later ones, and only a family can say which",
                "write an adapter with `causal = False` and `blocks` (docs/writing-an-adapter.md)",
                field="model.config.use_bidirectional_attention",
            )
    return None
