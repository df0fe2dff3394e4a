"""Compression as pure functions, without a model."""

from lightkv.core.functional import compress_stage
from lightkv.core.work import StageResult

__all__ = ["StageResult", "compress_stage"]
