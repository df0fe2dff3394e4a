"""What benchmarks share that write into the documentation: marks, and the machine's name."""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import torch


def fill(path: Path, mark: str, text: str) -> None:
    """Put `text` between the two `<!-- MARK -->` lines of a Markdown file."""
    line = f"<!-- {mark} -->"
    parts = path.read_text(encoding="utf-8").split(line)
    if len(parts) != 3:
        raise SystemExit(f"{path} has no two lines {line}")
    path.write_text(f"{parts[0]}{line}\n{text.strip()}\n{line}{parts[2]}", encoding="utf-8")


def settings(options: argparse.Namespace) -> dict[str, object]:
    """What decides the figures; where they are written does not."""
    return {name: value for name, value in vars(options).items() if name not in ("json", "write")}


def machine() -> str:
    """Processor, threads and versions, for the line under a table."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(":", 1)[1].strip() if models else name
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__.split('+')[0]}"
