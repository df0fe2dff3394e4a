"""Models of a suite, made once for the same arguments: building one takes twice as long as a copy."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import nn


def copied(make: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """`make_model` of a family: a copy of what it gave for these arguments, and torch's seed as then.

    It runs anew for a suite with attributes of its own, which may change what it makes, and for
    arguments that cannot be compared.
    """
    made: dict[Any, tuple[nn.Module, torch.Tensor]] = {}

    @wraps(make)
    def copy_of_it(self: Any, *args: Any, **options: Any) -> nn.Module:
        key = type(self), args, tuple(sorted(options.items())), torch.get_default_dtype()
        try:
            known = key in made
        except TypeError:  # a list or a mapping among them
            return make(self, *args, **options)
        if vars(self):
            return make(self, *args, **options)
        if not known:
            made[key] = make(self, *args, **options), torch.get_rng_state()
        model, seed = made[key]
        torch.set_rng_state(seed)
        return copy.deepcopy(model)

    return copy_of_it
