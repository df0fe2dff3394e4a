"""What a model family answers about its Hugging Face decoder, with defaults for the Llama shape.

The hooks ask these questions; a family (`families/`) overrides what differs.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import nn

from lightkv.adapters.hf import contact
from lightkv.adapters.hf.deepstack import first_place
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.hf.masks import (
    CHUNKED,
    FULL,
    SLIDING,
    Windows,
    check_style,
    chunked_layers,
    recurrent_layers,
    shared_entries,
    sliding_windows,
)
from lightkv.adapters.hf.shapes import decoder_shape
from lightkv.adapters.hf.tensor_parallel import head_group
from lightkv.adapters.hf.vision_tower import Encoder
from lightkv.adapters.pictures.placing import Picture, Pictures, Placeholders, layout_of
from lightkv.core.contracts import PositionPolicy
from lightkv.core.cost.flops import DecoderShape
from lightkv.core.errors import ModelError
from lightkv.core.heads import HeadGroup
from lightkv.core.layout import VisionLayout
from lightkv.core.pipeline.places import Places, listed_places
from lightkv.core.run.adapter import Adapter, model_type


class Family(Adapter):
    """Answers for decoders of the Llama shape; a family overrides what differs."""

    modalities: ClassVar[tuple[str, ...]] = ("image",)
    """What it takes beside text (`image`, `video`, `audio`), each with placeholders of its own."""
    causal: ClassVar[bool] = True
    """Whether a token never attends to later ones."""
    replaces_entries: ClassVar[bool] = True
    """Whether caches are objects of transformers, whose entries a stage on the cache can replace."""

    token_arguments: ClassVar[Mapping[str, int | None]] = {}
    """Arguments of decoder layers whose shapes do not say which dimension counts tokens → that
    dimension, None where none does."""

    def matches(self, model: nn.Module) -> bool:
        return model_type(model) in self.model_types

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
        found: Any = model.get_decoder()  # type: ignore[operator]
        inner = getattr(found, "model", None)
        # Some give the model with the vocabulary head around it.
        return found if inner is None or hasattr(found, "layers") else inner  # type: ignore[no-any-return]

    def layers(self, model: nn.Module) -> Sequence[nn.Module]:
        """The decoder layers."""
        return self.decoder(model).layers  # type: ignore[return-value]

    def attention(self, layer: nn.Module) -> nn.Module:
        """The attention module of a layer."""
        return layer.self_attn  # type: ignore[return-value]

    def attentions(self, model: nn.Module) -> Iterator[nn.Module]:
        """The attention modules of all layers that have one."""
        without = self.recurrent(model)
        layers = enumerate(self.layers(model))
        return (self.attention(layer) for number, layer in layers if number not in without)

    def vision_modules(self, model: nn.Module) -> Sequence[nn.Module]:
        """Modules that run before the decoder, for timing the first token."""
        inside = self.input_module(model)
        named = [contact.VISION_TOWERS, contact.AUDIO_TOWERS]
        towers = ((getattr(inside, name, None) for name in names) for names in named)
        found = (next((t for t in each if isinstance(t, nn.Module)), None) for each in towers)
        return [tower for tower in found if tower is not None]

    def text_config(self, config: Any) -> Any:
        """The decoder's config."""
        return config.get_text_config()

    def attention_implementation(self, model: nn.Module) -> str | None:
        """The attention implementation that the decoder uses."""
        return contact.attention_implementation(self.decoder(model).config)

    def check(self, model: nn.Module) -> None:
        """Refuse models whose layers need what the attachment does not do.

        Raises:
            ModelError: layers that are neither attention (full, sliding, chunked) nor recurrent, or
                masks in a form that is not known, or that cannot say what a compressed layer sees.
        """
        config = self.decoder(model).config
        kinds = set(getattr(config, "layer_types", None) or ())
        strange = kinds - {FULL, SLIDING, CHUNKED, *contact.RECURRENT}
        if strange:
            raise ModelError(
                f"some decoder layers are of a kind of which lightkv does not know what they make of a "
                f"shorter sequence: {', '.join(sorted(strange))}",
                field="model.config.layer_types",
                remedy="layers of full, sliding and chunked attention and recurrent ones "
                f"({', '.join(sorted(contact.RECURRENT))}) are supported",
            )
        if kinds and kinds <= contact.RECURRENT:
            raise ModelError(
                "no layer of this decoder keeps keys and values, so there is no cache to make smaller",
                field="model.config.layer_types",
                value=", ".join(sorted(kinds)),
                remedy="only decoders with layers of attention are supported",
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
        check_style(self.attention_implementation(model), self.windows(model), causal=self.causal)

    def windows(self, model: nn.Module) -> Windows:
        """Sliding window, or chunk, of each decoder layer; empty if no layer has one."""
        return sliding_windows(self.decoder(model).config, len(self.layers(model)))

    def chunked(self, model: nn.Module) -> frozenset[int]:
        """Layers whose window is one of fixed chunks, instead of one that slides."""
        return chunked_layers(self.decoder(model).config, len(self.layers(model)))

    def recurrent(self, model: nn.Module) -> frozenset[int]:
        """Layers that keep a state of what they saw (linear attention, short convolutions, mamba)."""
        return recurrent_layers(getattr(self.decoder(model), "config", None))

    def sources(self, model: nn.Module) -> dict[int, int]:
        """Layer that keeps no entries → the earlier one whose keys and values it reads."""
        return shared_entries(getattr(self.decoder(model), "config", None))

    def min_layer(self, model: nn.Module) -> int:
        """Layers before the first stage: those that add features of the vision tower."""
        return first_place(getattr(model, "config", None))

    def places(self, model: nn.Module) -> Places:
        """Where stages may act.

        From `min_layer` on, and not behind a layer whose keys and values later ones read; the attention
        of recurrent layers is not read.
        """
        unread = dict.fromkeys(sorted(self.recurrent(model)), "is recurrent")
        places, sources = replace(super().places(model), unread=unread), self.sources(model)
        if not sources:
            return places
        last = min(sources.values())
        readers = listed_places([reader for reader, read in sources.items() if read == last])
        why = (
            f"the keys and values of layer {last} are read by later ones ({readers}), where all that a "
            "stage removes behind it would still be seen"
        )
        return replace(places, last=last, why_last=why)

    def lengthless(self, model: nn.Module) -> frozenset[int]:
        """Layers whose cache tells no length: recurrent ones, and those that read another's."""
        return self.recurrent(model) | self.sources(model).keys()

    def blocked(self, model: nn.Module) -> frozenset[int] | None:
        """Layers in which the tokens of a block attend to one another; None: all, if they do."""
        return None

    def blocks(self, inputs: ModelInputs) -> torch.Tensor | None:
        """`[B, ≥ Q]` block of each token, negative outside; the last Q are those of this pass.

        Tokens of a block attend to one another. Asked when images arrive on a filled cache.
        """
        return None

    # -- pictures -----------------------------------------------------------------------------

    def layout(self, model: nn.Module, inputs: ModelInputs) -> VisionLayout:
        """Where the vision tokens of these inputs are and what they show."""
        return layout_of(self.pictures(model, inputs), inputs.length, inputs.pads)

    def pictures(self, model: nn.Module, inputs: ModelInputs) -> Sequence[Pictures]:
        """The pictures of a pass, those of each modality that has placeholders.

        With the encoder's patch of each token, where the family offers its encoder.
        """
        config: Any = model.config
        answers = {"image": self.images, "video": self.videos, "audio": self.audios}
        found = []
        for modality in self.modalities:
            here = self.placeholders(config, inputs, modality)
            if here.any():
                found.append(Pictures(modality, here, answers[modality](config, inputs, here)))
        return found

    def left_out(self, inputs: ModelInputs) -> int:
        """Features that the model makes of the pictures of a pass and has no place for in the prompt."""
        return 0

    def placeholders(self, config: Any, inputs: ModelInputs, modality: str) -> Placeholders:
        """`[B, N]` true at the vision tokens of `image`, `video` or `audio`."""
        return inputs.placeholders(getattr(config, f"{modality}_token_id"))

    def images(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        """Geometry of the images whose tokens are `here`, in the order of the pixel inputs."""
        raise NotImplementedError

    def videos(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        """The same of the videos."""
        raise NotImplementedError

    def audios(self, config: Any, inputs: ModelInputs, here: Placeholders) -> Sequence[Picture]:
        """The same of recordings: see `recording` for how many tokens each of them has."""
        raise NotImplementedError

    def encoder(self, model: nn.Module) -> Encoder | None:
        """The vision encoder, for methods that read it; None where it is not offered."""
        return None

    # -- positions ----------------------------------------------------------------------------

    def keeps_positions(self, policy: PositionPolicy) -> bool:
        """Whether rotary tables can be gathered instead of computed anew."""
        return policy.name == "keep"

    def rotary_positions(self, position_ids: torch.Tensor) -> torch.Tensor:
        """`[A, B, N]` rotary positions from the decoder's `position_ids`, `[B, N]` or `[≥ 3, B, N]`."""
        # With four rows the first is the text position, used for masks only.
        return position_ids[None] if position_ids.dim() == 2 else position_ids[-3:]

    def rotary_axes(self, decoder: nn.Module, kind: str | None = None) -> int | None:
        """Axes of the rotary positions of a kind of layers, None where the decoder does not say."""
        sections = getattr(getattr(decoder, "rotary_emb", None), "mrope_section", None)
        if isinstance(sections, Mapping):
            sections = sections.get(kind) if kind else next(iter(sections.values()), None)
        return None if sections is None else len(sections)

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
        given = {} if kind is None else {"layer_type": kind}
        axes = self.rotary_axes(decoder, kind)
        if axes is None and len(positions) > 1:
            raise ModelError(
                f"rotary positions have {len(positions)} axes, and this decoder does not say what it "
                "makes of them",
                field="positions",
                remedy="use positions='keep', or write an adapter that overrides `rotary` "
                "(docs/writing-an-adapter.md)",
            )
        if axes is None:
            return emb(hidden, position_ids=positions[0], **given)
        # Tokens without a picture stand at the same place on all axes.
        return emb(hidden, positions.expand(axes, -1, -1), **given)

    # -- facts --------------------------------------------------------------------------------

    def key_module(self, model: nn.Module) -> nn.Module:
        return self.decoder(model)

    def num_layers(self, model: nn.Module) -> int:
        return len(self.layers(model))

    def shape(self, config: Any) -> DecoderShape:
        return decoder_shape(self.text_config(config))

    def heads(self, model: nn.Module) -> HeadGroup:
        return head_group(model, self.attentions(model))
