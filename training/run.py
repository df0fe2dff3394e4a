"""What every training run has: a folder, a log, a clock that goes on after a resume."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from transformers import PreTrainedModel


class Run:
    """A run whose files go to `out`."""

    def __init__(self, out: Path, seconds: float = 0.0) -> None:
        """`seconds` were trained before."""
        self.out, self.seconds = out, seconds
        self.started = time.monotonic()

    def elapsed(self) -> float:
        """Training seconds, those before a resume counted in."""
        return self.seconds + time.monotonic() - self.started

    def log(self, message: str) -> None:
        """Print and append a line to ``train.log``."""
        line = f"{self.elapsed():6.0f} s  {message}"
        print(line, flush=True)
        with (self.out / "train.log").open("a") as file:
            file.write(line + "\n")


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
