"""Compression as pure functions, without a model."""

from lightkv.core.stage.functional import compress_stage
from lightkv.core.stage.step import StageResult

__all__ = ["StageResult", "compress_stage"]
