"""Any Hugging Face decoder whose vision spans the caller gives.

    layout = VisionLayout.from_spans([[(5, (1, 24, 24))]])
    with lightkv.compress(model, "lightkv", adapter="generic", layout=layout):
        model.generate(inputs_embeds=embeds)

The layout describes the first forward pass of each sequence; text follows without any.
"""

from __future__ import annotations

from torch import nn

from lightkv.adapters.hf.adapter import HFAdapter
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.core.errors import ConfigError, ModelError
from lightkv.core.layout import VisionLayout
from lightkv.core.run.adapter import Attachment
from lightkv.core.run.engine import Engine


class GenericAdapter(HFAdapter):
    """A decoder with `layers`, `rotary_emb` and attention through the transformers interface."""

    name = "generic"
    models = "any other, with layout"
    geometry = "as given"

    def matches(self, model: nn.Module) -> bool:
        return False

    def decoder(self, model: nn.Module) -> nn.Module:
        decoder = super().decoder(model) if callable(getattr(model, "get_decoder", None)) else model
        if not isinstance(getattr(decoder, "layers", None), nn.ModuleList):
            raise ModelError(
                f"{type(model).__name__} has no decoder with a ModuleList called `layers`",
                field="model",
                remedy="write an adapter that says where they are (docs/writing-an-adapter.md)",
            )
        return decoder

    def input_module(self, model: nn.Module) -> nn.Module:
        return self.decoder(model)

    def layout(self, model: nn.Module, inputs: ModelInputs) -> VisionLayout:
        raise ConfigError(
            "the generic adapter cannot find vision tokens by itself",
            field="layout",
            remedy="pass layout=VisionLayout.from_spans([[(start, (frames, rows, columns))]])",
        )

    def attach(self, model: nn.Module, engine: Engine, layout: VisionLayout | None) -> Attachment:
        if layout is None:
            raise ConfigError(
                "the generic adapter needs to be told where the vision tokens are",
                field="layout",
                remedy="pass layout=VisionLayout.from_spans([[(start, (frames, rows, columns))]])",
            )
        return super().attach(model, engine, layout)
