"""Compress the vision tokens of LVLMs during prefill.

Everything in `__all__` is imported when it is first asked for, because torch takes seconds to import:
`lightkv --help`, `lightkv.__version__` and the entry points that other programs scan do without it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lightkv import _moved

if TYPE_CHECKING:
    from lightkv import core as core
    from lightkv.core.assignment import Assignment
    from lightkv.core.errors import LightKVError, LightKVWarning
    from lightkv.core.hookspecs import hookimpl
    from lightkv.core.layout import View, VisionLayout
    from lightkv.core.pipeline.pipeline import Pipeline, PipelineSpec, Recipe
    from lightkv.core.pipeline.schedule import Schedule
    from lightkv.core.pipeline.stage_spec import StageSpec
    from lightkv.core.run.report import RunReport
    from lightkv.core.run.session import Session, attach, compress, detach, prepare
    from lightkv.core.stage.stage import Stage

_moved.install()

__version__ = "0.2.0"

__all__ = [
    "Assignment",
    "LightKVError",
    "LightKVWarning",
    "Pipeline",
    "PipelineSpec",
    "Recipe",
    "RunReport",
    "Schedule",
    "Session",
    "Stage",
    "StageSpec",
    "View",
    "VisionLayout",
    "attach",
    "compress",
    "detach",
    "hookimpl",
    "prepare",
]

_HOMES = {
    "assignment": ("Assignment",),
    "errors": ("LightKVError", "LightKVWarning"),
    "hookspecs": ("hookimpl",),
    "layout": ("View", "VisionLayout"),
    "pipeline.pipeline": ("Pipeline", "PipelineSpec", "Recipe"),
    "pipeline.schedule": ("Schedule",),
    "pipeline.stage_spec": ("StageSpec",),
    "run.report": ("RunReport",),
    "run.session": ("Session", "attach", "compress", "detach", "prepare"),
    "stage.stage": ("Stage",),
}
"""Module of `lightkv.core` → the names that it gives; the imports above say it to type checkers."""
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "core":
        for module in _HOMES:  # so that `lightkv.core.run.session` needs no import of its own
            importlib.import_module(f"lightkv.core.{module}")
        return importlib.import_module("lightkv.core")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"lightkv.core.{_HOME_OF[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "core"})
