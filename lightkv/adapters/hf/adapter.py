"""The adapter of a Hugging Face decoder: the answers of its family, and a session hooked into it."""

from __future__ import annotations

from torch import nn

from lightkv.adapters.hf import contact
from lightkv.adapters.hf.attachment import HFAttachment
from lightkv.adapters.hf.family import Family
from lightkv.adapters.hf.hook_checks import refuse_compiled
from lightkv.core.errors import ModelError
from lightkv.core.layout import VisionLayout
from lightkv.core.run.adapter import Attachment
from lightkv.core.run.engine import Engine


class HFAdapter(Family):
    """Base of the adapters of Hugging Face decoders."""

    def _refuse_compiled(self, model: nn.Module) -> None:
        """Refuse modules with our hooks on them that are compiled (others may be)."""
        layers = list(self.layers(model))
        hooked = [model, self.input_module(model), self.decoder(model), *layers]
        for module in (*hooked, *self.attentions(model)):
            refuse_compiled(module)

    def _check_contact(self, model: nn.Module) -> None:
        """Refuse a decoder that is called otherwise than `contact.py` says."""
        for layer in self.layers(model):
            contact.check_layer(layer)
        contact.check_arguments(self.decoder(model), ("inputs_embeds", "position_ids"))
        contact.check_generation(model)

    def attach(self, model: nn.Module, engine: Engine, layout: VisionLayout | None) -> Attachment:
        refuse_other_heads(model, self.decoder(model))
        self.check(model)
        self._refuse_compiled(model)
        self._check_contact(model)
        if layout is None:
            contact.check_inputs(self.input_module(model))
        return HFAttachment(self, model, engine, layout)


def refuse_other_heads(model: nn.Module, decoder: nn.Module) -> None:
    """Refuse models of transformers that do something else with the decoder's output than generate.

    Heads that classify, retrieve or answer by spans pick places of the sequence that was fed, or mask
    them; compressed layers give fewer. A decoder by itself is fine: its caller sees what it returns.

    Raises:
        ModelError: a class without `generate`.
    """
    generates = getattr(model, "can_generate", None)
    if model is decoder or generates is None or generates() or hasattr(model, "generate"):
        return
    raise ModelError(
        f"{type(model).__name__} does not generate: its head may read any position of the prompt, and "
        "compressed layers give fewer",
        field="model",
        value=type(model).__name__,
        remedy="pass the model with `generate`, or, if what you do with the output counts from the "
        "end, the decoder itself (adapter='generic', layout=…)",
    )
