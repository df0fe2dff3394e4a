"""What all Hugging Face decoders share. One family is one small file beside this one."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from lightkv.adapters.hf import contact
from lightkv.adapters.hf.attachment import HFAttachment
from lightkv.adapters.hf.encoder import Encoder
from lightkv.adapters.hf.forward import Windows
from lightkv.adapters.hf.hook_limits import refuse_compiled
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.hf.masks import mask_style
from lightkv.adapters.hf.tensor_parallel import head_group
from lightkv.adapters.pictures.patches import Kind
from lightkv.core.contracts import PositionPolicy
from lightkv.core.cost.flops import DecoderShape
from lightkv.core.errors import ModelError
from lightkv.core.heads import HeadGroup
from lightkv.core.layout import VisionLayout
from lightkv.core.run.adapter import Adapter, Attachment
from lightkv.core.run.engine import Engine


class HFAdapter(Adapter):
    """Defaults for decoders of the Llama shape; a family overrides what differs."""

    model_types: ClassVar[tuple[str, ...]] = ()
    causal: ClassVar[bool] = True
    """Whether a token never attends to later ones."""
    replaces_entries: ClassVar[bool] = True
    """Whether caches are objects of transformers, whose entries a stage on the cache can replace."""

    def matches(self, model: nn.Module) -> bool:
        return getattr(getattr(model, "config", None), "model_type", None) in self.model_types

    # -- where things are ---------------------------------------------------------------------

    def input_module(self, model: nn.Module) -> nn.Module:
        """The module whose forward receives ids, pixels and mask."""
        inner = getattr(model, "model", None)
        if not isinstance(inner, nn.Module):
            raise ModelError(
                f"{type(model).__name__} is a part of a model",
                field="model",
                remedy="pass the whole model, the one with `generate`",
            )
        return inner

    def decoder(self, model: nn.Module) -> nn.Module:
        """The module that owns the decoder layers."""
        return model.get_decoder()  # type: ignore[no-any-return,operator]

    def layers(self, model: nn.Module) -> Sequence[nn.Module]:
        """The decoder layers."""
        return self.decoder(model).layers  # type: ignore[return-value]

    def attention(self, layer: nn.Module) -> nn.Module:
        """The attention module of a layer."""
        return layer.self_attn  # type: ignore[return-value]

    def vision_modules(self, model: nn.Module) -> Sequence[nn.Module]:
        """Modules that run before the decoder, for timing the first token."""
        tower = getattr(self.input_module(model), "vision_tower", None)
        return [tower] if isinstance(tower, nn.Module) else []

    def text_config(self, config: Any) -> Any:
        """The decoder's config."""
        return config.get_text_config()

    def attention_implementation(self, model: nn.Module) -> str | None:
        """The attention implementation that the decoder uses."""
        return contact.attention_implementation(self.decoder(model).config)

    def check(self, model: nn.Module) -> None:
        """Refuse models whose layers need what the attachment does not do.

        Raises:
            ModelError: layers that are neither full nor sliding attention, or masks in a form that is
                not known, or cannot say what a compressed layer may attend to.
        """
        config = self.decoder(model).config
        kinds = set(getattr(config, "layer_types", None) or ()) - {FULL, SLIDING}
        if kinds:
            raise ModelError(
                f"some decoder layers are of a kind without a cache of keys that can be shortened: "
                f"{', '.join(sorted(kinds))}",
                field="model.config.layer_types",
                remedy="only layers of full and sliding-window attention are supported",
            )
        both_ways = getattr(config, "use_bidirectional_attention", None) in (True, "all")
        if self.causal and (both_ways or getattr(config, "is_causal", True) is False):
            raise ModelError(
                "this decoder attends in both directions",
                field="model.config.use_bidirectional_attention"
                if both_ways
                else "model.config.is_causal",
                remedy="if only tokens of the prompt do, set `causal = False` in its adapter",
            )
        implementation = self.attention_implementation(model)
        if mask_style(implementation) == "flash" and (self.windows(model) or not self.causal):
            raise ModelError(
                "this model's layers are not simply causal, and only the masks of eager and SDPA "
                "attention can tell a compressed layer what it may attend to",
                field="attn_implementation",
                value=implementation,
                remedy="model.set_attn_implementation('sdpa') (or 'eager')",
            )

    def windows(self, model: nn.Module) -> Windows:
        """Sliding window of each decoder layer; empty if no layer has one."""
        return sliding_windows(self.decoder(model).config, len(self.layers(model)))

    def blocks(self, inputs: ModelInputs) -> torch.Tensor | None:
        """`[B, ≥ Q]` block of each token, negative outside; the last Q are those of this pass.

        Tokens of a block attend to one another. Asked when images arrive on a filled cache.
        """
        return None

    # -- vision encoder -----------------------------------------------------------------------

    def encoder(self, model: nn.Module) -> Encoder | None:
        """The vision encoder, for methods that read it; None where it is not offered."""
        return None

    def kinds(self, model: nn.Module, inputs: ModelInputs) -> Sequence[Kind]:
        """The pictures of a pass, with the encoder's patch of each token; asked with an encoder."""
        raise NotImplementedError

    # -- positions ----------------------------------------------------------------------------

    def keeps_positions(self, policy: PositionPolicy) -> bool:
        """Whether rotary tables can be gathered instead of computed anew."""
        return policy.name == "keep"

    def rotary_positions(self, position_ids: torch.Tensor) -> torch.Tensor:
        """`[A, B, N]` rotary positions from the decoder's `position_ids`, `[B, N]` or `[≥ 3, B, N]`."""
        # With four rows the first is the text position, used for masks only.
        return position_ids[None] if position_ids.dim() == 2 else position_ids[-3:]

    def rotary_kind(self, decoder: nn.Module, layer: int) -> str | None:
        """Name of the rotary base of a layer, None where all layers have the same."""
        emb: Any = decoder.rotary_emb
        if "layer_type" not in inspect.signature(emb.forward).parameters:
            return None
        config: Any = decoder.config
        return str(config.layer_types[layer])

    def rotary(
        self,
        decoder: nn.Module,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        kind: str | None = None,
    ) -> Any:
        """(cos, sin) for `[A, B, N]` positions, which may be fractions."""
        emb: Any = decoder.rotary_emb
        if getattr(emb, "mrope_section", None) is not None:
            # Tokens without a picture stand at the same place on all three axes.
            return emb(hidden, positions.expand(3, -1, -1))
        if kind is None:
            return emb(hidden, position_ids=positions[0])
        return emb(hidden, position_ids=positions[0], layer_type=kind)

    # -- facts --------------------------------------------------------------------------------

    @abstractmethod
    def layout(self, model: nn.Module, inputs: ModelInputs) -> VisionLayout:
        """Where the vision tokens of these inputs are and what they show."""

    def key_module(self, model: nn.Module) -> nn.Module:
        return self.decoder(model)

    def num_layers(self, model: nn.Module) -> int:
        return len(self.layers(model))

    def shape(self, config: Any) -> DecoderShape:
        return decoder_shape(self.text_config(config))

    def heads(self, model: nn.Module) -> HeadGroup:
        return head_group(model, (self.attention(layer) for layer in self.layers(model)))

    def _refuse_compiled(self, model: nn.Module) -> None:
        """Refuse modules with our hooks on them that are compiled (others may be)."""
        layers = list(self.layers(model))
        hooked = [model, self.input_module(model), self.decoder(model), *layers]
        for module in hooked + [self.attention(layer) for layer in layers]:
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


FULL, SLIDING = "full_attention", "sliding_attention"


def sliding_windows(config: Any, num_layers: int) -> Windows:
    """Window of each layer of a text config, None where it attends to all; () if none slides."""
    window = getattr(config, "sliding_window", None)
    if window is None or getattr(config, "use_sliding_window", True) is False:
        return ()
    kinds = getattr(config, "layer_types", None) or [SLIDING] * num_layers
    windows = tuple(int(window) if kind == SLIDING else None for kind in kinds)
    return windows if any(windows) else ()


def decoder_shape(config: Any) -> DecoderShape:
    """Sizes of a Llama-shaped decoder from its text config."""
    try:
        heads = config.num_attention_heads
        return DecoderShape(
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            num_heads=heads,
            num_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            intermediate_size=config.intermediate_size,
            vocab_size=config.vocab_size,
            windows=sliding_windows(config, config.num_hidden_layers),
        )
    except AttributeError as error:
        raise ModelError(
            f"the text config lacks a size: {error}",
            field="model.config",
            remedy="write an adapter that overrides `shape` (docs/writing-an-adapter.md)",
        ) from error
