"""Training state on disk: safetensors and JSON, never pickle, so that a run can be resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

_MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")
"""What AdamW and Muon keep of a parameter."""


def named_parameters(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """All parameters of several modules under unique names; shared ones once."""
    return {
        f"{name}.{key}": parameter
        for name, module in modules.items()
        for key, parameter in module.named_parameters()
    }


def save_state(
    folder: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    progress: dict[str, Any],
) -> None:
    """Write parameters, the optimizers' moments and `progress`; a crash leaves the old state."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in named_parameters(modules).items():
        tensors[f"parameter/{name}"] = parameter.detach().contiguous()
        for optimizer in optimizers:
            moments = optimizer.state.get(parameter, {})
            kept = [key for key in _MOMENTS if key in moments]
            tensors |= {f"{key}/{name}": moments[key].contiguous() for key in kept}
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"progress": json.dumps(progress)}  # one file, so both change at once
    save_file(tensors, folder / "state.tmp", metadata=metadata)
    os.replace(folder / "state.tmp", folder / "state.safetensors")
    (folder / "state.json").write_text(json.dumps(progress, indent=1) + "\n")


def read_progress(folder: Path) -> dict[str, Any]:
    """The `progress` of a saved state."""
    from safetensors import safe_open

    with safe_open(folder / "state.safetensors", framework="pt") as file:
        progress: dict[str, Any] = json.loads(file.metadata()["progress"])
    return progress


def load_state(
    folder: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
) -> dict[str, Any]:
    """Read back what `save_state` wrote, in place; returns `progress`."""
    progress = read_progress(folder)
    tensors = load_file(folder / "state.safetensors")
    owner = {
        id(parameter): optimizer
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in named_parameters(modules).items():
        parameter.data.copy_(tensors[f"parameter/{name}"])
        moments = {key: tensors[f"{key}/{name}"] for key in _MOMENTS if f"{key}/{name}" in tensors}
        if moments and id(parameter) in owner:
            step = torch.tensor(float(progress["updates"]))
            owner[id(parameter)].state[parameter] = {"step": step, **moments}
    return progress
