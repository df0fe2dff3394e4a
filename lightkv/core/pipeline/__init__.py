"""What is composed and when it acts: specs, schedules, and the pipeline built for a decoder."""

from lightkv.core.pipeline.pipeline import Pipeline, PipelineSpec, resolve_spec
from lightkv.core.pipeline.recipe import Recipe
from lightkv.core.pipeline.stage_spec import StageSpec

__all__ = ["Pipeline", "PipelineSpec", "Recipe", "StageSpec", "resolve_spec"]
