"""Compress the vision tokens of LVLMs during prefill."""

from lightkv import _moved
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

__version__ = "0.1.0"

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
