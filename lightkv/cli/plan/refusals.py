"""What a session would refuse of a model, refused where it is only counted."""

from __future__ import annotations

from lightkv.checkpoints.published import Description
from lightkv.cli.plan.trace import meta_model
from lightkv.core.layout import VisionLayout
from lightkv.core.needs import Source, needs_from
from lightkv.core.pipeline.pipeline import Pipeline
from lightkv.core.run.engine import Engine
from lightkv.core.run.session import Session, check_modalities

GENERIC = "generic"
"""The adapter whose callers say where the vision tokens are."""


def check_served(described: Description, pipeline: Pipeline, layout: VisionLayout) -> None:
    """Begin a session on the model without weights, and end it.

    Models that are known by name are asked only where a pipeline reads more than decoders of their
    families all offer: that takes their classes, which take seconds to import.

    Args:
        described: the model.
        pipeline: built for its depth.
        layout: of the prompt, given to an adapter that finds none by itself.

    Raises:
        LightKVError: whatever the adapter refuses.
    """
    special = any(needs_from(each.stage.needs, Source.ENCODER) for each in pipeline.stages)
    if described.served is None and not special and not pipeline.modalities:
        return
    adapter, model = meta_model(described)
    check_modalities(pipeline, adapter, None)
    if described.served is not None or special:
        engine = Engine(pipeline, described.shape)
        given = layout if adapter.name == GENERIC else None
        Session(model, pipeline, adapter, engine, given).attach().detach()
