"""The lab: ablation grids, tuning, reports and pictures. Sits on top; nothing below imports it."""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {"report": "lightkv.lab.reporting", "show": "lightkv.lab.pictures"}
"""Public name → the module that has it; the parts of the lab are imported when they are used."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
