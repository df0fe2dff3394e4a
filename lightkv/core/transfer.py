"""Small host facts (counts, paddings, index tables) on their way to the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch

Tables = TypeVar("Tables")


def to_device(values: torch.Tensor | Sequence[int], device: torch.device | str) -> torch.Tensor:
    """`values` of the host on `device`, without waiting for what the device does at the moment.

    Not waiting is safe in this direction only: the host's memory is read before the call returns, but
    what comes back from a device must have arrived. A plain `torch.tensor(…, device="cuda")` waits.
    """
    device = torch.device(device)
    tensor = values if isinstance(values, torch.Tensor) else torch.tensor(values, dtype=torch.long)
    return tensor.to(device, non_blocking=tensor.device.type == "cpu" and device.type != "cpu")


def all_to_device(tables: Tables, device: torch.device) -> Tables:
    """A dataclass with its tensors on `device`; what else it holds stays."""
    record: Any = tables
    moved = {
        each.name: to_device(value, device)
        for each in fields(record)
        if isinstance(value := getattr(record, each.name), torch.Tensor)
    }
    return replace(record, **moved)  # type: ignore[no-any-return]
