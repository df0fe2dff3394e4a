"""What decoder layers are given for each token beside the hidden states, gathered for the survivors.

Embeddings of each layer (Gemma 4), the kind of expert of each token (ERNIE 4.5 VL): a decoder makes
them for the whole prompt and hands them to its layers by place or by name. They are found by shape,
`[B or 1, N, …]` with the N positions of the pass. A merged token has what belongs to the token whose
place it takes. Masks, rotary tables and position ids are the matter of `masks.py` and `rotary.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lightkv.adapters.hf import contact
from lightkv.adapters.hf.forward import Kwargs
from lightkv.core.errors import CompatibilityError

Dimensions = Mapping[str, int | None]
"""Argument → its dimension of tokens; None where it has none."""


class TokenArguments:
    """Gathers the arguments of decoder layers.

    Args:
        layers: of the decoder.
        known: arguments whose shapes do not say where their tokens are, of the family.
    """

    def __init__(self, layers: Sequence[nn.Module], known: Dimensions) -> None:
        # The first is `self`, the second the hidden states.
        self._places = {type(layer): tuple(contact.taken_by(layer))[2:] for layer in layers}
        self._known = {**contact.TOKEN_ARGUMENTS, **known}

    def of_survivors(
        self,
        layer: nn.Module,
        length: int,
        kept: torch.Tensor,
        args: tuple[Any, ...],
        kwargs: Kwargs,
    ) -> tuple[tuple[Any, ...], Kwargs]:
        """Arguments of a layer, by place and by name, for the tokens that are left.

        Args:
            layer: that will get them.
            length: N, positions of the pass.
            kept: `[B, N′]` old position of each new one.
            args: its arguments by place, behind the hidden states.
            kwargs: those by name. Masks, tables, position ids and caches among them stay.

        Raises:
            CompatibilityError: one that is sized by the sequence otherwise than `[B or 1, N, …]`.
        """
        names = self._places[type(layer)]
        unnamed = [f"argument {place}" for place in range(len(names) + 1, len(args) + 1)]
        placed = zip([*names, *unnamed], args, strict=False)
        return (
            tuple(self._of(name, value, length, kept) for name, value in placed),
            {name: self._of(name, value, length, kept) for name, value in kwargs.items()},
        )

    def _of(self, name: str, value: Any, length: int, kept: torch.Tensor) -> Any:
        dimension = self._known.get(name, 1)
        if name in contact.LAYER_ARGUMENTS or dimension is None:
            return value
        return gather_tokens(value, name, length, kept, dimension, sure=name in self._known)


def gather_tokens(
    value: Any,
    name: str,
    length: int,
    kept: torch.Tensor,
    dimension: int = 1,
    *,
    sure: bool = False,
) -> Any:
    """The tensors of an argument for the tokens `kept` `[B, N′]` of `length`; all else as it is.

    Args:
        value: a tensor, or tuples, lists and dictionaries of some.
        name: of the argument, for the error.
        dimension: where its tokens are.
        sure: whether other dimensions have that size by chance only.

    Raises:
        CompatibilityError: a tensor in which the tokens are not where they can be gathered.
    """
    if isinstance(value, torch.Tensor):
        return _gathered(value, name, length, kept, dimension, sure)
    if isinstance(value, Mapping):
        parts = list(value.values())
    elif isinstance(value, tuple | list):
        parts = list(value)
    else:
        return value
    inner = [gather_tokens(each, name, length, kept, dimension, sure=sure) for each in parts]
    if all(new is old for new, old in zip(inner, parts, strict=True)):
        return value
    if type(value) is dict:
        return dict(zip(value, inner, strict=True))
    if type(value) in (tuple, list):
        return type(value)(inner)
    raise _refused(name, type(value).__name__)


def _gathered(
    value: torch.Tensor, name: str, length: int, kept: torch.Tensor, dimension: int, sure: bool
) -> torch.Tensor:
    shape, batch = tuple(value.shape), kept.shape[0]
    if length not in shape:
        return value
    before, after = shape[1:dimension], shape[dimension + 1 :]
    fits = len(shape) > dimension and shape[0] in (1, batch) and shape[dimension] == length
    if not fits or (not sure and length in (*before, *after)):
        raise _refused(name, shape)
    index = kept.to(value.device).reshape(batch, *[1] * len(before), -1, *[1] * len(after))
    index = index.expand(-1, *before, -1, *after)
    return value.expand(batch, *shape[1:]).gather(dimension, index)


def _refused(name: str, value: object) -> CompatibilityError:
    return CompatibilityError(
        f"decoder layers are given {name!r}, which is sized by the sequence, but not as [B, N, …], so "
        "it cannot be shortened with it",
        field=name,
        value=value,
        remedy="derive an adapter whose `token_arguments` says which of its dimensions counts tokens "
        "(None: none does), or leave that argument out",
    )
