"""InternVL2 in the code that its checkpoints ship (`InternVLChatModel` with an InternLM2 decoder).

Written from the published attribute layout (OpenGVLab/InternVL, state of September 2025): the decoder
is `language_model.model`, its layers have `attention` with one packed projection `wqkv`. Each tile is
256 tokens; tiles come row by row, the thumbnail last when there is more than one. `chat` and
`generate` put the features into embeddings and run the decoder on those, so the ids are caught where
`generate` of the *instance* is called.

On transformers 5 the code does not run as it is: `checkpoints/original_code.py` mends a model.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from lightkv.adapters.hf.forward import Kwargs
from lightkv.adapters.hf.inputs import ModelInputs
from lightkv.adapters.pictures.placing import Pictures
from lightkv.adapters.pictures.tiles import column_by_column, tiled_pictures
from lightkv.adapters.remote.adapter import RemoteAdapter
from lightkv.core.errors import LayoutError, ModelError


class InternVLChatAdapter(RemoteAdapter):
    """`InternVLChatModel` with `InternLM2ForCausalLM` inside."""

    name = "internvl_chat"
    models = "InternVL2-8B (original remote code)"
    class_name = "InternVLChatModel"
    generates_around = True

    def decoder(self, model: nn.Module) -> nn.Module:
        return model.language_model.model  # type: ignore[union-attr,return-value]

    def attention(self, layer: nn.Module) -> nn.Module:
        return layer.attention  # type: ignore[return-value]

    def vision_modules(self, model: nn.Module) -> Sequence[nn.Module]:
        return [model.vision_model]  # type: ignore[list-item]

    def text_config(self, config: Any) -> Any:
        return config.llm_config

    def check(self, model: nn.Module) -> None:
        kinds = {type(getattr(layer, "attention", None)) for layer in self.layers(model)}
        if any("flash" in kind.__name__.lower() for kind in kinds):
            raise ModelError(
                "the flash attention of InternLM2's own code takes no mask that a compressed layer "
                "could be given",
                field="attn_implementation",
                value=sorted(kind.__name__ for kind in kinds),
                remedy="load the model with use_flash_attn=False "
                "(config.llm_config.attn_implementation = 'eager')",
            )
        layers = self.layers(model)
        if not all(hasattr(getattr(layer, "attention", None), "wqkv") for layer in layers):
            raise ModelError(
                "the decoder inside this InternVLChatModel is not InternLM2",
                field="model.language_model",
                value=type(model.language_model).__name__,
                remedy="compress(model.language_model, adapter='generic', layout=…), or use the "
                "converted checkpoint of transformers (InternVLForConditionalGeneration)",
            )
        check_rotary([self.attention(layer).rotary_emb for layer in layers])  # type: ignore[misc]
        super().check(model)

    def check_generate(self, model: nn.Module) -> None:
        if not hasattr(model.language_model, "generate"):
            raise ModelError(
                "its language model has no `generate`: transformers 5 gives it only to classes that ask "
                "for it",
                field="model.language_model",
                value=type(model.language_model).__name__,
                remedy=f"{MEND}, or convert the checkpoint (lightkv convert internvl2)",
            )

    def with_pixels(self, model: nn.Module, arguments: Kwargs) -> Kwargs:
        pixels, ids = arguments.get("pixel_values"), arguments.get("input_ids")
        if pixels is None:
            return arguments
        placeholder = context_id(model)
        if ids is not None:
            # The published forward cuts features that are too many, and only prints that it did.
            made = len(real_tiles(pixels, arguments)) * int(model.num_image_token)  # type: ignore[arg-type]
            check_count(int((ids == placeholder).sum()), made)
        return arguments

    def projections(self, attention: nn.Module) -> Sequence[nn.Module]:
        return [attention.wqkv]  # type: ignore[list-item]

    def query_key(
        self, attention: nn.Module, outputs: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`wqkv` holds for each key head its queries, then the key, then the value."""
        sizes: Any = attention
        batch, length = outputs[0].shape[:2]
        packed = outputs[0].view(batch, length, sizes.num_key_value_heads, -1, sizes.head_dim)
        query = packed[..., :-2, :].flatten(2, 3)
        return query.transpose(1, 2), packed[..., -2, :].transpose(1, 2)

    def pictures(self, model: nn.Module, inputs: ModelInputs) -> Sequence[Pictures]:
        here = inputs.placeholders(context_id(model))
        pixels = real_tiles(inputs.geometry("image", "pixel_values"), inputs.arguments)
        pictures = tiled_pictures(here, pixels, int(model.num_image_token))  # type: ignore[arg-type]
        config: Any = model.config
        if not config.use_thumbnail and any(len(picture.views) > 1 for picture in pictures):
            raise ModelError(
                "how the tiles of a picture lie is read off its thumbnail, and there is none",
                field="model.config.use_thumbnail",
                value=False,
                remedy="cut pictures with use_thumbnail=True, or give the spans: "
                "compress(model, …, layout=VisionLayout.from_spans(…))",
            )
        if getattr(model, "ps_version", "v2") == "v1":
            pictures = [column_by_column(picture) for picture in pictures]
        return [Pictures("image", here, pictures)]


MEND = "from lightkv.checkpoints.original_code import mend; mend(model)"
"""What a user can do about what this code lacks on transformers 5."""


def check_rotary(modules: Sequence[nn.Module]) -> None:
    """Refuse rotary tables without angles in them: `from_pretrained` of transformers 5 leaves them so.

    Answers of such a model are wrong with and without compression, so nothing is repaired here.

    Args:
        modules: `rotary_emb` of each layer, alike in all of them.

    Raises:
        ModelError: a table whose first row is not cos 1, sin 0, or whose rows are not those that its own
            method makes.
    """
    wanted = own_tables(modules[0])
    for layer, module in enumerate(modules):
        found = tables_of(module)
        right = all(
            table.shape == own.shape and torch.allclose(table.float(), own.float(), atol=1e-2)
            for table, own in zip(found, wanted, strict=True)
        )
        if not right:
            raise ModelError(
                f"the rotary tables of layer {layer} hold no angles: this code keeps them in buffers "
                "that from_pretrained of transformers 5 leaves uninitialised, and its answers are wrong",
                field="model",
                value=[float(table[0, 0]) for table in found],
                remedy=f"{MEND}, or convert the checkpoint (lightkv convert internvl2)",
            )


def tables_of(module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The (cos, sin) that a module of the published code holds, each `[S, d]`."""
    return module.cos_cached, module.sin_cached


def own_tables(module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, made anew by the module's own method; the module is left alone."""
    twin = copy.copy(module)
    # Buffers are entries of this dict, and the method replaces them.
    twin._buffers = dict(module._buffers)
    fill_tables(twin, module.max_seq_len_cached)
    return tables_of(twin)


def fill_tables(module: Any, rows: int) -> None:
    """Let a rotary module of the published code make its frequencies and its tables anew."""
    device = module.cos_cached.device
    steps = torch.arange(0, module.dim, 2, device=device).float() / module.dim
    module.register_buffer("inv_freq", 1.0 / module.base**steps, persistent=False)
    module._set_cos_sin_cache(seq_len=rows, device=device, dtype=module.cos_cached.dtype)


def context_id(model: nn.Module) -> int:
    """Id of the placeholder `<IMG_CONTEXT>`, which `chat` writes on the model.

    Raises:
        ModelError: nobody has set it.
    """
    found = getattr(model, "img_context_token_id", None)
    if found is None:
        raise ModelError(
            "the model does not know which id stands for a vision token",
            field="model.img_context_token_id",
            remedy="model.img_context_token_id = tokenizer.convert_tokens_to_ids('<IMG_CONTEXT>') "
            "(model.chat does that by itself)",
        )
    return int(found)


def check_count(found: int, made: int) -> None:
    """Refuse ids with another number of placeholders than their tiles give tokens.

    Raises:
        LayoutError: with both numbers.
    """
    if found == made:
        return
    raise LayoutError(
        f"the prompt has {found} placeholders, but the tiles give {made} vision tokens",
        field="input_ids",
        value=found,
        remedy="write <IMG_CONTEXT> num_image_token times for each tile (model.chat does), and give "
        "the whole prompt at once",
    )


def real_tiles(pixels: torch.Tensor, arguments: Kwargs) -> torch.Tensor:
    """Tiles `[n, C, S, S]` without the dummies that `image_flags` marks with 0."""
    flags = arguments.get("image_flags")
    if flags is None:
        return pixels
    flags = flags.detach().flatten()
    if len(flags) != len(pixels):
        raise LayoutError(
            f"there are {len(pixels)} tiles",
            field="image_flags",
            value=len(flags),
            remedy="give one flag for each tile",
        )
    return pixels[flags.to(pixels.device) == 1]
