"""What every training run has: settings, a model that grows, optimizers, a folder, a log, a clock."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from training import state
from training.deepen import START_LAYERS

MUON_SHARE = 3.0
"""Steps of orthogonal directions bear more than AdamW's: tried against 1 (training/video/README.md)."""


@dataclass(frozen=True)
class RunSettings:
    """What a run of either model depends on."""

    seed: int = 0
    tower_steps: int = 1800
    deepen_at: int = 1200
    """Updates after which the decoder is grown to all its layers."""
    steps: int = 1600
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    threads: int = 2
    save_every: int = 200


@dataclass
class RunProgress:
    """Where a run of either model stands; goes into the saved state."""

    updates: int = 0
    seconds: float = 0.0
    tower_done: bool = False
    layers: int = START_LAYERS


class Run:
    """A run whose files go to `out`. Subclasses make the model, train the tower, and update."""

    layers: int
    """Of the full-grown decoder."""
    model: Any
    modules: dict[str, nn.Module]
    trained: list[nn.Parameter]
    optimizers: list[torch.optim.Optimizer]
    progress: Any

    def __init__(self, settings: Any, out: Path) -> None:
        """Set up a run from the start."""
        self.settings, self.out, self.seconds = settings, out, 0.0
        self.started = time.monotonic()
        torch.manual_seed(settings.seed)
        torch.set_num_threads(settings.threads)

    def adopt(self, model: PreTrainedModel) -> None:
        """Train `model` from now on, with fresh moments."""
        raise NotImplementedError

    def make_model(self, layers: int) -> PreTrainedModel:
        """The untrained model with a decoder of so many layers."""
        raise NotImplementedError

    def elapsed(self) -> float:
        """Training seconds, those before a resume counted in."""
        return self.seconds + time.monotonic() - self.started

    def log(self, message: str) -> None:
        """Print and append a line to ``train.log``."""
        line = f"{self.elapsed():6.0f} s  {message}"
        print(line, flush=True)
        with (self.out / "train.log").open("a") as file:
            file.write(line + "\n")

    def save(self) -> None:
        """Write the resumable state."""
        self.progress.seconds = self.elapsed()
        progress = dataclasses.asdict(self.progress)
        state.save_state(self.out / "state", self.modules, self.optimizers, progress)

    def resume(self) -> None:
        """Go on from the saved state."""
        if state.read_progress(self.out / "state").get("layers", START_LAYERS) == self.layers:
            self.adopt(self.make_model(self.layers))
        progress = state.load_state(self.out / "state", self.modules, self.optimizers)
        self.progress = type(self.progress)(**progress)
        self.seconds = self.progress.seconds
        self.log(f"resumed at update {self.progress.updates}")

    def step(self, learning_rate: float) -> None:
        """One step of all optimizers at `learning_rate`, on the gradients that are there."""
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * group.get("share", 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def warm(self) -> float:
        """Share of the rate after growing: no full-size steps before fresh moments mean something."""
        if self.progress.layers < self.layers:
            return 1.0
        return min(1.0, max(0, self.progress.updates - self.settings.deepen_at) / 40)


def adamw(parameters: Iterable[nn.Parameter], weight_decay: float) -> torch.optim.AdamW:
    """AdamW that lets vectors (norms, biases) decay not at all."""
    parameters = list(parameters)
    groups: list[dict[str, Any]] = [
        {"params": [x for x in parameters if x.ndim > 1]},
        {"params": [x for x in parameters if x.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), weight_decay=weight_decay)


def muon(matrices: Sequence[nn.Parameter], weight_decay: float) -> torch.optim.Muon:
    """Muon with steps `MUON_SHARE` as large as AdamW's at the same rate."""
    group = {"params": list(matrices), "share": MUON_SHARE}
    return torch.optim.Muon(
        [group], lr=0.0, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
    )


def add_settings(parser: argparse.ArgumentParser, settings: type[RunSettings]) -> None:
    """The folder, `--resume`, and an option for each field of `settings`."""
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on from the folder's state")
    for one in dataclasses.fields(settings):
        kind = float if isinstance(one.default, float) else int
        parser.add_argument("--" + one.name.replace("_", "-"), type=kind, default=one.default)


def begun(kind: type[Any], settings: RunSettings, out: Path, resume: bool) -> Any:
    """A run of `kind` in the folder `out`, which gets its settings; on from its state if `resume`."""
    out.mkdir(parents=True, exist_ok=True)
    run = kind(settings, out)
    text = json.dumps(dataclasses.asdict(settings), indent=1)
    (out / "settings.json").write_text(text + "\n")
    if resume:
        run.resume()
    return run


def format_accuracy(accuracy: Mapping[str, float]) -> str:
    """One short line."""
    return " ".join(f"{kind} {value:.2f}" for kind, value in accuracy.items())


def save_checkpoint(model: PreTrainedModel, folder: Path) -> None:
    """Write a model in half precision for its size; its config asks loaders for single precision."""
    model.half().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
