"""What the tests of `serving.py` put in place of a tokenizer and an assistant, and how they count."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


class Numbers:
    """A tokenizer that writes ids."""

    def decode(self, tokens: Any, **_: Any) -> str:
        return "".join(f"{int(token)} " for token in tokens)


class FedTokens:
    """Counts the passes of a decoder and the tokens fed to it."""

    def __init__(self, decoder: nn.Module) -> None:
        self.passes = self.tokens = 0
        self._handle = decoder.layers[0].register_forward_pre_hook(self._count)  # type: ignore[index,union-attr]

    def _count(self, layer: nn.Module, args: tuple[Any, ...]) -> None:
        self.passes += 1
        self.tokens += args[0].shape[1]

    def close(self) -> None:
        self._handle.remove()


class Assistant:
    """A copy of a model that drafts three tokens at once; told what to guess, it errs now and then."""

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = copy.deepcopy(model)
        settings: Any = self.model.generation_config
        settings.update(num_assistant_tokens=3, assistant_confidence_threshold=0.0)
        settings.num_assistant_tokens_schedule = "constant"

    def guess(self, tokens: torch.Tensor) -> None:
        """Draft `[N]` the tokens of a whole sequence, every third one wrong."""

        def overrule(module: nn.Module, args: Any, output: Any) -> Any:
            place = output.past_key_values.get_seq_length()
            if place < len(tokens):
                output.logits[:, -1] = 0
                other = 30 if tokens[place] != 30 else 31
                output.logits[:, -1, tokens[place] if place % 3 else other] = 99
            return output

        self.model.register_forward_hook(overrule)


def quantised_bytes(layer: Any) -> int:
    """Bytes of the quantised keys of a cache layer (quanto)."""
    keys = layer._quantized_keys
    return sum(int(part.nbytes) for part in (keys._data._data, keys._scale, keys._shift))
