"""The adapter of modelling code that ships with a checkpoint."""

from __future__ import annotations

from torch import nn

from lightkv.adapters.remote.attachment import RemoteAttachment
from lightkv.adapters.remote.family import RemoteFamily
from lightkv.core.layout import VisionLayout
from lightkv.core.run.adapter import Attachment
from lightkv.core.run.engine import Engine


class RemoteAdapter(RemoteFamily):
    """Base of the adapters of remote code of the transformers 4 era."""

    def attach(self, model: nn.Module, engine: Engine, layout: VisionLayout | None) -> Attachment:
        self.check(model)
        return RemoteAttachment(self, model, engine, layout)
