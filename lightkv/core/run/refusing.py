"""An adapter that serves nothing: it recognises what cannot be compressed, and says why.

    @lightkv.hookimpl
    def lightkv_adapters(register):
        register(RefusingAdapter("mine", {"my_type": Refusal("its decoder …", "use …")}))

As with all adapters the last registered is asked first: a plugin that serves such a type goes before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from lightkv.core.cost.flops import DecoderShape
from lightkv.core.errors import ModelError
from lightkv.core.run.adapter import Adapter, Attachment, model_type
from lightkv.core.run.refusal import REFUSED, Refusal, Standing

if TYPE_CHECKING:
    from lightkv.core.layout import VisionLayout
    from lightkv.core.run.engine import Engine


class RefusingAdapter(Adapter):
    """Refuses models by `config.model_type`.

    Args:
        name: how listings call it.
        refused: model type → why, and what would work.
    """

    def __init__(self, name: str, refused: Mapping[str, Refusal]) -> None:
        self.name = name
        self.models = f"none: says why {len(refused)} types cannot be compressed"
        self.refused = dict(refused)

    def matches(self, model: nn.Module) -> bool:
        return False

    def refusal(self, model: nn.Module) -> Refusal | None:
        return self.refused.get(model_type(model) or "")

    def standing(self, model_type: str) -> Standing | None:
        known = self.refused.get(model_type)
        return None if known is None else Standing(REFUSED, known.reason, known.remedy)

    # -- where somebody asks for it by name ---------------------------------------------------

    def _serves_nothing(self, model: object) -> ModelError:
        return ModelError(
            f"the adapter {self.name!r} only says which models cannot be compressed",
            field="adapter",
            value=self.name,
            remedy="leave adapter out, then the one that serves the model is found",
        )

    def shape(self, config: Any) -> DecoderShape:
        raise self._serves_nothing(config)

    def key_module(self, model: nn.Module) -> nn.Module:
        raise self._serves_nothing(model)

    def num_layers(self, model: nn.Module) -> int:
        raise self._serves_nothing(model)

    def attach(self, model: nn.Module, engine: Engine, layout: VisionLayout | None) -> Attachment:
        raise self._serves_nothing(model)
